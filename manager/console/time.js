// Times as people read them, in the browser's language and zone.

import { h } from './dom.js';

const full = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium' });

/// A moment, to the second.
export function moment(ms) {
  return h('time', { datetime: new Date(ms).toISOString() }, full.format(ms));
}

/// A day; the moment is in its title.
export function date(ms) {
  return h('time', { datetime: new Date(ms).toISOString(), title: full.format(ms) }, day.format(ms));
}

/// `in 3 days`, `2 hours ago`.
export function relative(ms, now = Date.now()) {
  const format = new Intl.RelativeTimeFormat(undefined, { numeric: 'auto' });
  const seconds = (ms - now) / 1000;
  for (const [unit, size] of [['day', 86_400], ['hour', 3600], ['minute', 60]]) {
    if (Math.abs(seconds) >= size) return format.format(Math.round(seconds / size), unit);
  }
  return seconds > 0 ? 'within a minute' : 'just now';
}
