// One's own tokens, for programs.

import { h, replace } from '../dom.js';
import { get, path, post, remove } from '../api.js';
import { ask, confirm } from '../dialog.js';
import { field } from '../form.js';
import { live } from '../live.js';
import { done } from '../notice.js';
import { badge, button, empty, heading, table } from '../parts.js';
import { roleChoices } from '../roles.js';
import { reveal } from '../secret.js';
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
      return reveal(host, `The token ${made.name}`, made.secret);
    },
  });
}
