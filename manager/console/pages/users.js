// Who may sign in, for administrators.

import { h, replace } from '../dom.js';
import { get, path, post, put, remove } from '../api.js';
import { ask, confirm } from '../dialog.js';
import { field } from '../form.js';
import { live } from '../live.js';
import { done } from '../notice.js';
import { badge, button, heading, table } from '../parts.js';
import { roleChoices } from '../roles.js';
import { date } from '../time.js';

const PASSWORD = { label: 'Password', required: true, type: 'password', hint: '15 to 128 characters.', autocomplete: 'new-password' };

export async function users({ me, signal, show }) {
  const list = h('div', { class: 'card' });
  const again = { now: () => {} };
  const act = async (change, text) => {
    await change();
    done(text);
    again.now();
  };
  show(heading('Users', button('Add a user', () => add(act), { kind: 'primary', key: 'add' })), list);
  again.now = await live(signal, () => get('/users', signal), (found) => {
    replace(list, table('Users', ['Name', 'Role', 'Added', 'Actions'], found.map((user) => row(user, me, act))));
  });
}

function row(user, me, act) {
  const key = (what) => `${what}-${user.id}`;
  const one = (what, text, run, kind = 'plain') => button(text, run, { kind, key: key(what), label: `${text}: ${user.name}` });
  return [
    h('div', { class: 'row' }, h('strong', {}, user.name), user.name === me.name && badge('you'), user.disabled && badge('disabled', 'bad')),
    badge(user.role),
    date(user.created),
    h(
      'div',
      { class: 'actions' },
      one('change', 'Change', () => change(user, act)),
      one('password', 'Set password', () => setPassword(user, act)),
      one('delete', 'Delete', () => drop(user, act), 'danger-plain'),
    ),
  ];
}

function add(act) {
  ask({
    title: 'Add a user',
    fields: [
      field({ name: 'name', label: 'Name', required: true, hint: 'What they sign in with: letters, digits and . _ @ -', autocomplete: 'off' }),
      field({ name: 'role', label: 'Role', options: roleChoices(), value: 'viewer' }),
      field({ name: 'password', ...PASSWORD }),
    ],
    action: 'Add the user',
    run: (values) => act(() => post('/users', values), `The user ${values.name} is added.`),
  });
}

function change(user, act) {
  ask({
    title: `Change ${user.name}`,
    fields: [
      field({ name: 'role', label: 'Role', options: roleChoices(), value: user.role }),
      field({ name: 'disabled', label: 'Disabled', type: 'checkbox', value: user.disabled, hint: 'They cannot sign in: their sessions end, and their tokens are good for nothing.' }),
    ],
    action: 'Save',
    run: (values) => act(() => put(path`/users/${user.id}`, values), `The user ${user.name} is changed.`),
  });
}

function setPassword(user, act) {
  ask({
    title: `Set the password of ${user.name}`,
    text: 'All their sessions end.',
    fields: [field({ name: 'password', ...PASSWORD })],
    action: 'Set the password',
    run: (values) => act(() => put(path`/users/${user.id}/password`, values), `The password of ${user.name} is set.`),
  });
}

function drop(user, act) {
  confirm({
    title: `Delete ${user.name}?`,
    text: 'Their sessions end and their tokens are removed. This cannot be undone.',
    action: 'Delete the user',
    run: () => act(() => remove(path`/users/${user.id}`), `The user ${user.name} is deleted.`),
  });
}
