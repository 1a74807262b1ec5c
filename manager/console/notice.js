// Tells what happened: shown for a while, and read out by screen readers.

import { h } from './dom.js';

/// How long a notice stays, in milliseconds.
const SHOWN = 6000;

/// Says it to screen readers alone.
export function announce(text) {
  document.getElementById('announcements').textContent = text;
}

/// Shows that something was done.
export function done(text) {
  announce(text);
  document.querySelector('.notice')?.remove();
  const notice = h('div', { class: 'notice', 'aria-hidden': 'true' }, text);
  document.body.append(notice);
  setTimeout(() => notice.remove(), SHOWN);
}
