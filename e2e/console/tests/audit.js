import assert from 'node:assert/strict';
import { ADMIN, api, inBrowser, person, sees } from '../browser.js';

inBrowser('the audit is filtered, and older lines are shown when they are asked for', { as: ADMIN, at: '#/audit' }, async (page) => {
  await person('audited', 'viewer');
  const { id } = await api('POST', '/clusters', { name: 'busy' });
  for (let at = 0; at < 60; at += 1) await api('PUT', `/clusters/${id}`, { name: 'busy', description: `change ${at}` });
  const rows = page.locator('tbody tr');
  await page.getByLabel('What').selectOption('cluster.');
  await page.getByLabel('Who').fill('admin');
  await page.getByRole('button', { name: 'Show', exact: true }).click();
  await page.waitForFunction(() => document.querySelectorAll('tbody tr').length === 50);
  await page.getByRole('button', { name: 'Show older lines' }).click();
  await page.waitForFunction(() => document.querySelectorAll('tbody tr').length > 60);
  assert.equal(await rows.filter({ hasText: 'admin changed the cluster busy' }).count(), 60);
  // New lines come by themselves, and those that were asked for stay.
  await api('PUT', `/clusters/${id}`, { name: 'busy', description: 'one more' });
  await page.waitForFunction(() => [...document.querySelectorAll('tbody tr')].filter((row) => row.textContent.includes('changed the cluster busy')).length === 61);
  await page.getByLabel('What').selectOption('user.');
  await page.getByRole('button', { name: 'Show', exact: true }).click();
  await sees(page, 'audited');
  await page.waitForFunction(() => !document.querySelector('main').textContent.includes('busy'));
  await page.getByLabel('Who').fill('nobody-of-this-name');
  await page.getByRole('button', { name: 'Show', exact: true }).click();
  await page.getByRole('heading', { name: 'Nothing here' }).waitFor();
});
