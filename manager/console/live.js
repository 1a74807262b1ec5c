// Keeps a page true while it is open: asks again and again, and shows only what has changed.

import { h } from './dom.js';

/// How long between two questions, in milliseconds; longer each time that the manager cannot be reached.
const EVERY = 5000;
const EVERY_MAX = 60_000;
/// How often a page is drawn anew although nothing has changed, in milliseconds.
const REDRAW = 60_000;

const state = h('p', { class: 'live', 'data-state': 'off' });

/// Where it is said whether the page is live.
export function liveState() {
  return state;
}

function say(name, text) {
  if (state.dataset.state === name && name === 'on') return;
  state.dataset.state = name;
  state.textContent = text;
}

/// Loads and shows until the page is left. Gives a function that does it at once. `load` fails with the first answer's error;
/// later ones are said beside the menu.
export async function live(signal, load, show) {
  let shown;
  let wait = EVERY;
  let timer;
  let asked = 0;
  let answered = 0;
  async function once() {
    asked += 1;
    const turn = asked;
    const loaded = await load(signal);
    // What was asked before a change may be answered after what was asked since.
    if (signal.aborted || turn < answered) return;
    answered = turn;
    // What is said of how long ago something was changes by itself.
    const text = JSON.stringify([loaded, Math.floor(Date.now() / REDRAW)]);
    if (text !== shown) show(loaded);
    shown = text;
    wait = EVERY;
    say('on', 'Live');
  }
  async function again() {
    clearTimeout(timer);
    if (signal.aborted) return;
    try {
      if (!document.hidden) await once();
    } catch (error) {
      if (signal.aborted) return;
      wait = Math.min(wait * 2, EVERY_MAX);
      say('lost', 'Not reachable: trying again');
    }
    clearTimeout(timer);
    if (!signal.aborted) timer = setTimeout(again, wait);
  }
  signal.addEventListener('abort', () => {
    clearTimeout(timer);
    say('off', '');
  });
  document.addEventListener('visibilitychange', () => !document.hidden && again(), { signal });
  await once();
  if (!signal.aborted) timer = setTimeout(again, wait);
  return again;
}
