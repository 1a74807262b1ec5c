import assert from 'node:assert/strict';
import { ADMIN, URL_BASE, fieldSays, focused, inBrowser, person, sees, signedIn } from '../browser.js';

inBrowser('a token is made, shown once, good for what it may, and revoked', { as: ADMIN, at: '#/tokens' }, async (page) => {
  await sees(page, 'No token yet');
  await page.getByRole('button', { name: 'Make a token' }).click();
  const dialog = page.getByRole('dialog');
  assert.equal(await focused(page), 'Name');
  await dialog.getByLabel('Name').fill('ci');
  await dialog.getByLabel('Role').selectOption('operator');
  await dialog.getByLabel('Good for how many days').fill('99999');
  await dialog.getByRole('button', { name: 'Make the token' }).click();
  await fieldSays(dialog, 'Good for how many days', /Write a time from 1s to/);
  await dialog.getByLabel('Good for how many days').fill('2');
  await dialog.getByRole('button', { name: 'Make the token' }).click();
  const secret = await page.getByLabel('The token ci').inputValue();
  assert.match(secret, /^darter_pat_/);
  await page.waitForFunction(() => document.activeElement.value?.startsWith('darter_pat_'));
  const uses = async () => (await fetch(`${URL_BASE}/api/v1/session`, { headers: { authorization: `Bearer ${secret}` } })).status;
  assert.equal(await uses(), 200);
  const row = page.getByRole('row', { name: /ci/ });
  await row.getByText('operator').waitFor();
  await page.reload();
  await row.waitFor();
  assert.ok(!(await page.content()).includes(secret), 'a token is shown once');
  await page.getByRole('button', { name: 'Revoke ci' }).click();
  await page.getByRole('button', { name: 'Revoke the token' }).click();
  await sees(page, 'No token yet');
  assert.equal(await uses(), 401);
});

inBrowser('nobody is offered more than they may', { at: '' }, async (page) => {
  const vera = await person('vera', 'viewer');
  const { cookies } = await signedIn(vera.name, vera.password);
  await page.context().addCookies(cookies);
  await page.goto(`${URL_BASE}/#/tokens`);
  await page.reload();
  await page.getByRole('button', { name: 'Make a token' }).click();
  assert.deepEqual(await page.getByLabel('Role').locator('option').allTextContents(), ['viewer: see clusters']);
  await page.keyboard.press('Escape');
  assert.deepEqual(await page.getByRole('navigation').getByRole('link').allTextContents(), ['Overview', 'Clusters', 'Placement', 'Tokens', 'Account']);
  await page.getByRole('link', { name: 'Clusters' }).click();
  await page.getByRole('heading', { name: 'Clusters', level: 1 }).waitFor();
  assert.equal(await page.getByRole('link', { name: 'Add a cluster' }).count(), 0);
  await page.goto(`${URL_BASE}/#/users`);
  await page.getByRole('alert').getByText('This page is for the role admin. You have the role viewer.').waitFor();
  await page.goto(`${URL_BASE}/#/nowhere`);
  await page.getByRole('heading', { name: 'There is no such page' }).waitFor();
});
