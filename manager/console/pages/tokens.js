// One's own tokens, for programs.

import { h, replace } from '../dom.js';
import { get, path, post, remove } from '../api.js';
import { ask, confirm } from '../dialog.js';
import { field } from '../form.js';
import { live } from '../live.js';
import { announce, done } from '../notice.js';
import { badge, button, empty, heading, table } from '../parts.js';
import { roleChoices } from '../roles.js';
import { date, relative } from '../time.js';

export async function tokens({ me, signal, show }) {
  const made = h('div', {});
  const list = h('div', { class: 'card' });
  const again = { now: () => {} };
  const add = button('Make a token', () => make(me, made, again), { kind: 'primary', key: 'make' });
  show(heading('Tokens', add), h('p', { class: 'lead' }, 'A program sends a token instead of a name and password. It never may more than you may at that moment.'), made, list);
  again.now = await live(signal, () => get('/tokens', signal), (found) => {
    const none = empty('No token yet', 'Make one for each program, with the least role that is enough for it.');
    replace(list, found.length > 0 ? table('Your tokens', ['Name', 'Role', 'Made', 'Ends', 'Actions'], found.map((token) => row(token, again))) : none);
  });
}

function row(token, again) {
  const ended = token.expires <= Date.now();
  return [
    h('strong', {}, token.name),
    badge(token.role),
    date(token.created),
    ended ? badge('ended', 'bad') : [date(token.expires), h('span', { class: 'hint' }, ` ${relative(token.expires)}`)],
    button('Revoke', () => revoke(token, again), { kind: 'danger-plain', key: `revoke-${token.id}`, label: `Revoke ${token.name}` }),
  ];
}

function revoke(token, again) {
  confirm({
    title: `Revoke ${token.name}?`,
    text: 'Programs that use it are refused from now on. This cannot be undone.',
    action: 'Revoke the token',
    run: async () => {
      await remove(path`/tokens/${token.id}`);
      done(`The token ${token.name} is revoked.`);
      again.now();
    },
  });
}

function make(me, host, again) {
  ask({
    title: 'Make a token',
    fields: [
      field({ name: 'name', label: 'Name', required: true, hint: 'What it is for, such as ci. Letters, digits and . _ @ -', autocomplete: 'off' }),
      field({ name: 'role', label: 'Role', options: roleChoices(me.role), value: 'viewer', hint: 'What a program with it may do.' }),
      field({ name: 'lifetime', label: 'Good for how many days', required: true, type: 'number', min: 1, value: '30', inputmode: 'numeric' }),
    ],
    action: 'Make the token',
    run: async ({ name, role, lifetime }) => {
      const made = await post('/tokens', { name, role, lifetime: `${Number(lifetime) * 24}h` });
      again.now();
      return reveal(host, made);
    },
  });
}

/// Shows the secret: this once, and nowhere but on this page. Gives where it stands.
function reveal(host, made) {
  const secret = h('input', { class: 'secret', readonly: true, value: made.secret, 'aria-label': `The token ${made.name}`, on: { focus: () => secret.select() } });
  const copy = button('Copy', async () => {
    secret.select();
    try {
      await navigator.clipboard.writeText(made.secret);
      done('The token is copied.');
    } catch {
      announce('The token is selected: copy it.');
    }
  });
  const hide = button('I have it: hide it', () => {
    replace(host);
    document.querySelector('h1').focus();
  });
  replace(host, h('div', { class: 'result good', role: 'group', 'aria-label': 'The new token' }, h('h2', {}, `The token ${made.name} is made`), h('p', {}, 'Copy it now: it is shown this once, and the manager does not keep it.'), secret, h('div', { class: 'actions' }, copy, hide)));
  announce(`The token ${made.name} is made. Copy it now: it is shown this once.`);
  return secret;
}
