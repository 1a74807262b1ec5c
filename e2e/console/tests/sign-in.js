import assert from 'node:assert/strict';
import { ADMIN, URL_BASE, fieldSays, focused, inBrowser, person, sees } from '../browser.js';

inBrowser('one signs in by the keyboard alone, and is told what is wrong', {}, async (page) => {
  await page.getByRole('heading', { name: 'Sign in to Darter' }).waitFor();
  assert.equal(await focused(page), 'Name');
  await page.keyboard.press('Enter');
  await fieldSays(page, 'Name', /Fill in: Name/);
  await page.keyboard.type('admin');
  await page.keyboard.press('Tab');
  assert.equal(await focused(page), 'Password');
  await page.keyboard.type('this is not the password');
  await page.keyboard.press('Enter');
  await page.getByRole('alert').getByText('There is no user with this name and password').waitFor();
  await page.getByLabel('Password').focus();
  await page.keyboard.press('Control+A');
  await page.keyboard.type(ADMIN.password);
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Overview' }).waitFor();
  await page.waitForFunction(() => document.activeElement.textContent === 'Overview');
  // All of the menu and what is in the page is reached by Tab, from the link that leads over the menu.
  const order = [];
  await page.locator('.skip').focus();
  for (let at = 0; at < 10; at += 1) {
    order.push(await focused(page));
    await page.keyboard.press('Tab');
  }
  assert.deepEqual(order, ['Skip to the content', 'Overview', 'Clusters', 'Placement', 'Tokens', 'Join tokens', 'Users', 'Audit', 'Account', 'Sign out']);
  await page.locator('.skip').focus();
  await page.keyboard.press('Enter');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'main');
  await page.getByRole('button', { name: 'Sign out' }).press('Enter');
  await sees(page, 'You are signed out.');
  const session = await page.request.get(`${URL_BASE}/api/v1/session`);
  assert.equal(session.status(), 401);
});

inBrowser('whose session ends signs in again and goes on where they were', {}, async (page) => {
  const otto = await person('otto-ends', 'operator');
  await page.goto(`${URL_BASE}/#/placement`);
  await signIn(page, otto);
  await page.getByRole('heading', { name: 'Placement' }).waitFor();
  await page.context().clearCookies();
  await page.getByLabel('Address').fill('10.1.2.3');
  await page.getByRole('button', { name: 'Find its cluster' }).click();
  await sees(page, 'Your session has ended');
  await signIn(page, otto);
  await page.getByRole('heading', { name: 'Placement' }).waitFor();
});

inBrowser('one changes the own password, and is told what is wrong', {}, async (page) => {
  const olga = await person('olga', 'viewer');
  await page.goto(`${URL_BASE}/#/account`);
  await signIn(page, olga);
  const fill = async (current, password, again) => {
    await page.getByLabel('Current password').fill(current);
    await page.getByLabel('New password', { exact: true }).fill(password);
    await page.getByLabel('New password once more').fill(again);
    await page.getByRole('button', { name: 'Change the password' }).click();
  };
  await fill(olga.password, 'a new password for olga', 'another one for olga');
  await fieldSays(page, 'New password once more', /The two are not the same/);
  await fill('not the one of olga', 'a new password for olga', 'a new password for olga');
  await fieldSays(page, 'Current password', /This is not the password/);
  await fill(olga.password, 'short', 'short');
  await page.locator('.error', { hasText: 'A password has 15 to 128 characters' }).waitFor();
  await fill(olga.password, 'a new password for olga', 'a new password for olga');
  await sees(page, 'Sign in with the new one');
  await signIn(page, { ...olga, password: 'a new password for olga' });
  await page.getByRole('heading', { name: 'Account' }).waitFor();
});

async function signIn(page, { name, password }) {
  await page.getByLabel('Name').fill(name);
  await page.getByLabel('Password').fill(password);
  await page.getByRole('button', { name: 'Sign in' }).click();
}
