// The browser, and people in front of it.

import assert from 'node:assert/strict';
import { rm, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { chromium } from 'playwright-core';

export const URL_BASE = process.env.DARTER_CONSOLE_URL;
const PASSWORD = process.env.DARTER_CONSOLE_PASSWORD;
assert.ok(URL_BASE && PASSWORD, 'DARTER_CONSOLE_URL and DARTER_CONSOLE_PASSWORD say where the manager is, and its first password');

/// Longest that something may take to be seen, in milliseconds.
const SEEN_MAX = 15_000;
const ARGUMENTS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

const home = await mkdtemp(join(tmpdir(), 'darter-console-'));
const browser = await chromium.launch({
  executablePath: process.env.DARTER_CHROMIUM ?? '/usr/bin/chromium',
  headless: true,
  args: ARGUMENTS,
  env: { ...process.env, HOME: home, XDG_CONFIG_HOME: home, XDG_CACHE_HOME: home },
});

export async function end() {
  await browser.close();
  await rm(home, { recursive: true, force: true });
}

/// A page of somebody; what the browser complains of makes the test fail, but for what `expected` fits.
export async function page({ state, expected = /status of 4\d\d/, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, locale: 'en-GB', timezoneId: 'UTC', storageState: state, ...options });
  const opened = await context.newPage();
  opened.setDefaultTimeout(SEEN_MAX);
  const complaints = [];
  opened.on('pageerror', (error) => complaints.push(String(error)));
  opened.on('console', (message) => {
    if (message.type() === 'error' && !expected.test(message.text())) complaints.push(message.text());
  });
  opened.complaints = complaints;
  return opened;
}

/// A test with a page of its own.
export function inBrowser(name, options, body) {
  test(name, async () => {
    const state = options.as ? await signedIn(options.as.name, options.as.password) : undefined;
    const opened = await page({ state, expected: options.expected });
    try {
      await opened.goto(`${URL_BASE}/${options.at ?? ''}`);
      await body(opened);
      assert.deepEqual(opened.complaints, []);
    } finally {
      await opened.context().close();
    }
  });
}

export const ADMIN = { name: 'admin', password: PASSWORD };
const states = new Map();

/// Cookies of somebody, who signs in once.
export async function signedIn(name, password) {
  if (!states.has(name)) {
    const context = await browser.newContext();
    const answer = await context.request.post(`${URL_BASE}/api/v1/session`, { data: { name, password } });
    assert.equal(answer.status(), 200, await answer.text());
    states.set(name, await context.storageState());
    await context.close();
  }
  return states.get(name);
}

/// Does something as the administrator, without a page. Gives the answer's body.
export async function api(method, path, data) {
  const context = await browser.newContext({ storageState: await signedIn(ADMIN.name, ADMIN.password) });
  try {
    const answer = await context.request.fetch(`${URL_BASE}/api/v1${path}`, { method, data, headers: { 'x-darter-request': '1' } });
    const text = await answer.text();
    assert.ok(answer.ok(), `${method} ${path}: ${answer.status()} ${text}`);
    return text ? JSON.parse(text) : null;
  } finally {
    await context.close();
  }
}

/// Somebody new.
export async function person(name, role) {
  const password = `the password of ${name}`;
  const { id } = await api('POST', '/users', { name, role, password });
  return { id, name, password };
}

/// Waits until it is seen.
export async function sees(where, text) {
  await where.getByText(text).first().waitFor();
}

/// Waits until a field says what is wrong with it, and looks that it is tied to it.
export async function fieldSays(where, label, text) {
  const input = where.getByLabel(label, { exact: false }).first();
  await where.locator('.error', { hasText: text }).waitFor();
  assert.equal(await input.getAttribute('aria-invalid'), 'true', label);
  const said = await input.evaluate((element) => element.getAttribute('aria-describedby').split(' ').map((id) => document.getElementById(id)?.textContent).join(' '));
  assert.match(said, text);
}

/// The name of what has the focus.
export function focused(opened) {
  return opened.evaluate(() => {
    const element = document.activeElement;
    return element.labels?.[0]?.textContent ?? element.getAttribute('aria-label') ?? element.textContent;
  });
}
