import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { test } from 'node:test';
import { ADMIN, URL_BASE, api, page, signedIn } from '../browser.js';

const AXE = createRequire(import.meta.url).resolve('axe-core/axe.min.js');
const SHOTS = process.env.DARTER_CONSOLE_SHOTS;
/// What the first page may weigh, in bytes, before compression.
const FIRST_PAGE_MAX = 300_000;

/// Pages by what pictures of them are called, where they are, and what is done before they are looked at.
function pages(ids) {
  return [
    ['overview', '#/'],
    ['clusters', '#/clusters'],
    ['cluster', `#/clusters/${ids.made}`],
    ['cluster-form', `#/clusters/${ids.made}/edit`],
    ['cluster-delete', `#/clusters/${ids.made}`, (one) => one.getByRole('button', { name: 'Delete' }).click()],
    ['members', `#/clusters/${ids.home}/members`],
    ['configuration', `#/clusters/${ids.home}/configuration`, differs],
    ['configuration-edit', `#/clusters/${ids.home}/configuration`, (one) => one.getByRole('button', { name: 'Change', exact: true }).click()],
    ['placement', '#/placement', place],
    ['tokens', '#/tokens'],
    ['token-form', '#/tokens', (one) => one.getByRole('button', { name: 'Make a token' }).click()],
    ['join-tokens', '#/join-tokens'],
    ['users', '#/users'],
    ['user-form', '#/users', refuse],
    ['audit', '#/audit'],
    ['account', '#/account'],
    ['absent', '#/nothing/here'],
  ];
}

async function place(one) {
  await one.getByLabel('Address').fill('10.99.4.7');
  await one.getByRole('button', { name: 'Find its cluster' }).click();
  await one.getByRole('heading', { name: /It belongs to/ }).waitFor();
}

async function differs(one) {
  await one.getByRole('button', { name: 'What changed: version 1' }).click();
  await one.getByRole('heading', { name: 'What version 1 changed' }).waitFor();
}

async function refuse(one) {
  await one.getByRole('button', { name: 'Add a user' }).click();
  await one.getByRole('button', { name: 'Add the user' }).click();
  await one.locator('.error', { hasText: 'Fill in' }).first().waitFor();
}

async function content() {
  const scope = { cidrs: ['10.99.0.0/16', '2001:db8:77:1234:5678::/80'], hostnames: ['gpu-[0-9]+\\.rack-[0-9]+\\.frankfurt\\.example\\.internal'], idcs: ['fra1'], locations: ['europe|frankfurt'] };
  const { id } = await api('POST', '/clusters', { name: 'frankfurt', description: 'Training nodes in halls 1 to 4, behind their own uplink.', scope });
  await api('POST', '/clusters', { name: 'singapore', description: 'Serving nodes of Asia.', scope: { locations: ['asia|singapore'] } });
  await api('POST', '/clusters', { name: 'x'.repeat(64) });
  for (const [name, role, lifetime] of [['ci', 'operator', '720h'], ['dashboards', 'viewer', '24h']]) await api('POST', '/tokens', { name, role, lifetime });
  await api('POST', '/users', { name: 'mona', role: 'operator', password: 'the password of mona' });
  await api('POST', '/join-tokens', { name: 'frankfurt-nodes', cluster: id, lifetime: '720h' });
  const home = (await api('GET', '/clusters')).find((cluster) => cluster.isDefault);
  return { made: id, home: home.id };
}

let ids;

for (const width of [375, 1440]) {
  for (const colorScheme of ['light', 'dark']) {
    test(`every page can be read, and has its labels, at ${width} px, ${colorScheme}`, async () => {
      ids ??= await content();
      const opened = await page({ viewport: { width, height: width === 375 ? 812 : 900 }, colorScheme, reducedMotion: 'reduce' });
      await opened.addInitScript({ path: AXE });
      await opened.goto(URL_BASE);
      await opened.getByRole('heading', { name: 'Sign in to Darter' }).waitFor();
      await look(opened, `sign-in-${width}-${colorScheme}`);
      await opened.context().addCookies((await signedIn(ADMIN.name, ADMIN.password)).cookies);
      await opened.reload();
      for (const [name, at, prepare] of pages(ids)) {
        // Away and back, so that a page which is open already is opened anew.
        await opened.goto(`${URL_BASE}/#/away`);
        await opened.getByRole('heading', { name: 'There is no such page' }).waitFor();
        await opened.goto(`${URL_BASE}/${at}`);
        if (name !== 'absent') await opened.locator('main:not([aria-busy]) h1:not(:text("There is no such page"))').waitFor();
        await prepare?.(opened);
        await look(opened, `${name}-${width}-${colorScheme}`);
        if (await opened.getByRole('dialog').count()) await opened.keyboard.press('Escape');
      }
      assert.deepEqual(opened.complaints, []);
      await opened.context().close();
    });
  }
}

async function look(opened, name) {
  if (SHOTS) {
    mkdirSync(SHOTS, { recursive: true });
    await opened.screenshot({ path: join(SHOTS, `${name}.png`), fullPage: !name.includes('form-') });
  }
  const wide = await opened.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.equal(wide, 0, `${name} is wider than its window`);
  const { violations } = await opened.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
  const said = violations.map(({ id: rule, help, nodes }) => `${rule}: ${help}: ${nodes.map((node) => node.html).slice(0, 3).join(' ')}`);
  assert.deepEqual(said, [], name);
}

test('the first page is light', async () => {
  const opened = await page({ state: await signedIn(ADMIN.name, ADMIN.password) });
  let bytes = 0;
  const places = [];
  opened.on('response', (answer) => {
    places.push(answer.url());
    if (answer.ok()) bytes += Number(answer.headers()['content-length'] ?? 0);
  });
  await opened.goto(`${URL_BASE}/`);
  await opened.getByRole('heading', { name: 'Overview' }).waitFor();
  assert.ok(places.every((place) => place.startsWith(`${URL_BASE}/`)), 'nothing comes from elsewhere');
  assert.ok(bytes > 10_000 && bytes < FIRST_PAGE_MAX, `${bytes} bytes`);
  await opened.context().close();
});

test('the menu of narrow screens opens and closes by the keyboard', async () => {
  const opened = await page({ state: await signedIn(ADMIN.name, ADMIN.password), viewport: { width: 375, height: 812 } });
  await opened.goto(`${URL_BASE}/`);
  const menu = opened.getByRole('button', { name: 'Menu' });
  const tokens = opened.getByRole('link', { name: 'Tokens', exact: true });
  assert.equal(await tokens.count(), 0);
  await menu.press('Enter');
  assert.equal(await menu.getAttribute('aria-expanded'), 'true');
  await opened.keyboard.press('Escape');
  assert.equal(await menu.getAttribute('aria-expanded'), 'false');
  await menu.press('Enter');
  await tokens.press('Enter');
  await opened.getByRole('heading', { name: 'Tokens' }).waitFor();
  assert.equal(await menu.getAttribute('aria-expanded'), 'false');
  await opened.context().close();
});
