// Who changed what, newest first, for administrators.

import { h, replace } from '../dom.js';
import { get, query } from '../api.js';
import { field, form } from '../form.js';
import { live } from '../live.js';
import { announce } from '../notice.js';
import { button, empty, heading, table } from '../parts.js';
import { moment } from '../time.js';

/// Lines that are loaded at a time.
const PAGE = 50;

/// What is said of the actions; others are shown as they are.
const WORDS = {
  'session.begin': 'signed in from',
  'session.refuse': 'was refused with a wrong password, from',
  'session.throttle': 'tried too many passwords, from',
  'cluster.create': 'added the cluster',
  'cluster.change': 'changed the cluster',
  'cluster.remove': 'deleted the cluster',
  'token.create': 'made the token',
  'token.remove': 'revoked the token',
  'user.create': 'added the user',
  'user.change': 'changed the user',
  'user.password': 'set the password of',
  'user.remove': 'deleted the user',
};

const KINDS = [['', 'everything'], ['session.', 'signing in'], ['cluster.', 'clusters'], ['user.', 'users'], ['token.', 'tokens']];

/// A line as a sentence.
export function lineText({ actor, action, object }) {
  return [h('strong', {}, actor), ` ${WORDS[action] ?? action} `, h('strong', {}, object)];
}

export async function audit({ signal, show }) {
  const list = h('div', { class: 'card' });
  let running = new AbortController();
  const begin = async (which) => {
    running.abort();
    running = new AbortController();
    await follow(list, which, AbortSignal.any([signal, running.signal]));
  };
  const fields = [
    field({ name: 'actor', label: 'Who', hint: 'A user’s name, in full.', autocomplete: 'off' }),
    field({ name: 'action', label: 'What', options: KINDS, value: '' }),
  ];
  const filter = form({ fields, action: 'Show', submit: begin, label: 'Which lines', kind: 'plain' });
  filter.classList.add('inline');
  show(heading('Audit'), h('div', { class: 'card' }, filter), list);
  await begin({});
}

/// Shows the newest lines as they come; older ones are added below when they are asked for.
async function follow(list, which, signal) {
  const ask = (before) => get(`/audit${query({ ...which, count: PAGE, before })}`, signal);
  let newest = [];
  let older = [];
  let ended = false;
  const draw = () => {
    // What was the newest page may have moved on: each line is shown once.
    const seen = new Set(newest.map((line) => line.id));
    const all = [...newest, ...older.filter((line) => !seen.has(line.id))];
    if (all.length === 0) return replace(list, empty('Nothing here', 'No line fits. Show everything, or write a name as it is in the list of users.'));
    const more = !ended && all.length >= PAGE && button('Show older lines', next, { key: 'older' });
    replace(list, table('Audit, newest first', ['When', 'What', 'Detail'], all.map(row)), more && h('div', { class: 'actions' }, more));
  };
  const next = async () => {
    const last = older.at(-1) ?? newest.at(-1);
    const found = await ask(last.id).catch((error) => void (signal.aborted || announce(error.message)));
    if (!found) return;
    older = [...older, ...found];
    ended = found.length < PAGE;
    draw();
    announce(ended ? 'All lines are shown.' : `${found.length} more lines are shown.`);
  };
  await live(signal, () => ask(), (found) => {
    // Lines that the newest page has pushed out stay.
    const fresh = new Set(found.map((line) => line.id));
    older = [...newest.filter((line) => !fresh.has(line.id)), ...older];
    newest = found;
    draw();
  });
}

function row(line) {
  return [moment(line.at), lineText(line), h('span', { class: 'hint detail' }, line.detail)];
}
