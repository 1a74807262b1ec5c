// One's own password.

import { h } from '../dom.js';
import { put, Refused } from '../api.js';
import { field, form } from '../form.js';
import { badge, facts, heading, section } from '../parts.js';

export function account({ me, show }) {
  const fields = [
    field({ name: 'current', label: 'Current password', required: true, type: 'password', autocomplete: 'current-password' }),
    field({ name: 'password', label: 'New password', required: true, type: 'password', hint: '15 to 128 characters. A sentence is easy to keep in mind.', autocomplete: 'new-password' }),
    field({ name: 'again', label: 'New password once more', required: true, type: 'password', autocomplete: 'new-password' }),
  ];
  const submit = async ({ current, password, again }) => {
    if (password !== again) throw new Refused(422, '', [{ field: 'again', message: 'The two are not the same.' }]);
    await put('/session/password', { current, password });
    dispatchEvent(new CustomEvent('darter-signed-out', { detail: 'Your password is changed, and all your sessions have ended. Sign in with the new one.' }));
  };
  show(
    heading('Account'),
    section('You', facts([['Name', me.name], ['Role', badge(me.role)]])),
    section('Change your password', h('p', { class: 'hint' }, 'All your sessions end, this one included.'), h('div', { class: 'sheet' }, form({ fields, action: 'Change the password', submit, label: 'Change your password' }))),
  );
}
