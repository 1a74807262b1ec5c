// Asks the manager. What must hold: every change has the header that pages of others cannot send.

const BASE = '/api/v1';
/// Longest that an answer may take, in milliseconds.
const ANSWER_MAX = 35_000;

/// Why something was not done: in words, and for fields.
export class Refused extends Error {
  constructor(status, detail, errors = []) {
    super(detail);
    this.status = status;
    this.errors = errors;
  }
}

async function ask(method, place, body, signal) {
  const until = AbortSignal.timeout(ANSWER_MAX);
  const headers = { accept: 'application/json' };
  if (method !== 'GET') headers['x-darter-request'] = '1';
  if (body !== undefined) headers['content-type'] = 'application/json';
  let response;
  try {
    response = await fetch(BASE + place, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: signal ? AbortSignal.any([signal, until]) : until,
      credentials: 'same-origin',
      redirect: 'error',
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refused(0, 'The manager cannot be reached. Is it running, and are you connected to its network?');
  }
  // Whose session has ended is asked to sign in again, whatever they did; who signs in is told at the form.
  if (response.status === 401 && place !== '/session') dispatchEvent(new Event('darter-signed-out'));
  return read(response);
}

async function read(response) {
  const text = await response.text();
  let said = null;
  try {
    said = text ? JSON.parse(text) : null;
  } catch {
    said = null;
  }
  if (response.ok) return said;
  let detail = said?.detail ?? `The manager answered ${response.status}, and not in words that this page knows.`;
  const wait = response.headers.get('retry-after');
  if (wait) detail += ` (${wait} s)`;
  throw new Refused(response.status, sentence(detail), said?.errors ?? []);
}

/// A text as a sentence begins.
export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/// A path of parts that may have any characters in them.
export function path(strings, ...parts) {
  return String.raw({ raw: strings }, ...parts.map((part) => encodeURIComponent(part)));
}

/// `?a=b&c=d` of those that are not empty.
export function query(values) {
  const filled = Object.entries(values).filter(([, value]) => value !== '' && value !== undefined && value !== null);
  const text = new URLSearchParams(filled).toString();
  return text && `?${text}`;
}

export const get = (place, signal) => ask('GET', place, undefined, signal);
export const post = (place, body) => ask('POST', place, body);
export const put = (place, body) => ask('PUT', place, body);
export const remove = (place) => ask('DELETE', place);
