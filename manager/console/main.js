// The console's start: who is signed in, the menu, and which page is shown.

import { h, replace, svg } from './dom.js';
import { get, remove } from './api.js';
import { announce } from './notice.js';
import { liveState } from './live.js';
import { button, failure, heading } from './parts.js';
import { find, visible } from './pages.js';
import { signIn } from './pages/sign-in.js';

const ENDED = 'Your session has ended. Sign in again to go on.';
const app = document.getElementById('app');
let me = null;
let left = new AbortController();

/// What a page is told: who looks at it, what is in its address, and when it is left.
function context(parameters) {
  left.abort();
  left = new AbortController();
  const may = (role) => ['viewer', 'operator', 'admin'].indexOf(me.role) >= ['viewer', 'operator', 'admin'].indexOf(role);
  return { me, may, parameters, signal: left.signal, go, show: (...children) => replace(main(), children) };
}

const main = () => document.getElementById('main');

/// Opens another page.
function go(place) {
  if (location.hash === place) return void open();
  location.hash = place;
}

async function open() {
  if (!me) return;
  const { page, parameters } = find(location.hash.replace(/^#\/?/, ''));
  const here = context(parameters);
  const focused = document.activeElement;
  menuClosed();
  main().setAttribute('aria-busy', 'true');
  try {
    if (page.role && !here.may(page.role)) throw new Error(`This page is for the role ${page.role}. You have the role ${me.role}.`);
    await page.show(here);
  } catch (error) {
    if (here.signal.aborted) return;
    here.show(heading(page.title), failure(error.message), button('Try again', open));
  }
  if (here.signal.aborted) return;
  main().removeAttribute('aria-busy');
  const title = main().querySelector('h1')?.textContent ?? page.title;
  document.title = `${title} · Darter`;
  mark(page);
  // Who has gone elsewhere while it was loading stays there.
  if ([focused, document.body].includes(document.activeElement)) main().querySelector('h1')?.focus({ preventScroll: true });
  scrollTo(0, 0);
  announce(title);
}

function mark(page) {
  for (const entry of document.querySelectorAll('nav a')) {
    const current = entry.getAttribute('href') === (page.under ?? page.place);
    if (current) entry.setAttribute('aria-current', 'page');
    else entry.removeAttribute('aria-current');
  }
}

function logo() {
  const wing = (d, kind) => svg('path', { d, class: kind });
  return svg('svg', { viewBox: '0 0 32 32', class: 'logo', 'aria-hidden': 'true' }, svg('rect', { width: 32, height: 32, rx: 8 }), wing('M7 11l9 5-9 5z', 'light'), wing('M15 9l10 7-10 7 3-7z', 'bright'));
}

function menuClosed() {
  document.querySelector('.side')?.classList.remove('open');
  document.querySelector('.menu')?.setAttribute('aria-expanded', 'false');
}

function toggleMenu(event) {
  const opened = document.querySelector('.side').classList.toggle('open');
  event.currentTarget.setAttribute('aria-expanded', String(opened));
}

function frame() {
  const entries = visible(me.role).map((page) => h('li', {}, h('a', { href: page.place, on: { click: menuClosed } }, page.title)));
  const skip = (event) => {
    event.preventDefault();
    main().focus();
  };
  const toggle = h('button', { type: 'button', class: 'button menu', 'aria-expanded': 'false', 'aria-controls': 'menu', on: { click: toggleMenu } }, 'Menu');
  const who = h('div', { class: 'who' }, h('span', {}, me.name), h('span', { class: 'hint' }, me.role));
  const side = h(
    'header',
    { class: 'side' },
    h('div', { class: 'brand' }, logo(), h('span', {}, 'Darter'), toggle),
    h('div', { id: 'menu', class: 'menu-content' }, h('nav', { 'aria-label': 'Pages' }, h('ul', {}, entries)), liveState(), h('div', { class: 'foot' }, who, button('Sign out', leave))),
  );
  side.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape' || !side.classList.contains('open')) return;
    menuClosed();
    toggle.focus();
  });
  replace(app, h('a', { class: 'skip', href: '#main', on: { click: skip } }, 'Skip to the content'), side, h('main', { id: 'main', tabindex: '-1' }));
}

async function leave() {
  try {
    await remove('/session');
  } catch (error) {
    if (error.status !== 401) return announce(error.message);
  }
  signedOut('You are signed out.');
}

function signedOut(text) {
  left.abort();
  me = null;
  document.querySelector('dialog')?.close();
  document.title = 'Sign in · Darter';
  signIn(app, logo(), text, (signedIn) => {
    me = signedIn;
    frame();
    open();
  });
}

async function start() {
  addEventListener('hashchange', open);
  addEventListener('darter-signed-out', (event) => me && signedOut(event.detail ?? ENDED));
  try {
    me = await get('/session');
    frame();
    await open();
  } catch (error) {
    if (error.status === 401) return signedOut('');
    replace(app, h('main', { class: 'alone' }, h('h1', {}, 'Darter'), failure(error.message), button('Try again', start)));
  }
}

start();
