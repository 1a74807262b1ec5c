// A secret that was made: shown this once, and nowhere but on this page.

import { h, replace } from './dom.js';
import { announce, done } from './notice.js';
import { button } from './parts.js';

/// Shows in `host` the secret of what is called `title`, such as `The token ci`. Gives where it stands.
export function reveal(host, title, secret, hint) {
  const shown = h('input', { class: 'secret', readonly: true, value: secret, 'aria-label': title, on: { focus: () => shown.select() } });
  const copy = button('Copy', async () => {
    shown.select();
    try {
      await navigator.clipboard.writeText(secret);
      done('The token is copied.');
    } catch {
      announce('The token is selected: copy it.');
    }
  });
  const hide = button('I have it: hide it', () => {
    replace(host);
    document.querySelector('h1').focus();
  });
  const text = 'Copy it now: it is shown this once, and the manager does not keep it.';
  replace(host, h('div', { class: 'result good', role: 'group', 'aria-label': 'The new token' }, h('h2', {}, `${title} is made`), h('p', {}, text), hint && h('p', {}, hint), shown, h('div', { class: 'actions' }, copy, hide)));
  announce(`${title} is made. Copy it now: it is shown this once.`);
  return shown;
}
