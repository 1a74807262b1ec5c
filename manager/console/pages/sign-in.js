// Signing in: the only page for nobody in particular.

import { h, replace } from '../dom.js';
import { post } from '../api.js';
import { field, form } from '../form.js';

/// Shows it in the whole window; `then` is told who has signed in.
export function signIn(app, logo, text, then) {
  const name = field({ name: 'name', label: 'Name', required: true, autocomplete: 'username' });
  const password = field({ name: 'password', label: 'Password', required: true, type: 'password', autocomplete: 'current-password' });
  const submit = async (values) => then(await post('/session', values));
  const sheet = form({ fields: [name, password], action: 'Sign in', submit, label: 'Sign in' });
  const said = h('p', { class: 'hint', role: 'status' }, text);
  replace(app, h('main', { class: 'alone' }, h('div', { class: 'brand' }, logo, h('h1', {}, 'Sign in to Darter')), said, sheet));
  name.input.focus();
}
