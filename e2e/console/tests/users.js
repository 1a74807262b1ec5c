import assert from 'node:assert/strict';
import { ADMIN, URL_BASE, fieldSays, inBrowser, sees } from '../browser.js';

async function status(name, password) {
  const answer = await fetch(`${URL_BASE}/api/v1/session`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ name, password }) });
  return answer.status;
}

inBrowser('a user is added, changed, disabled, given a password and deleted', { as: ADMIN, at: '#/users' }, async (page) => {
  const dialog = page.getByRole('dialog');
  await page.getByRole('button', { name: 'Add a user' }).click();
  await dialog.getByLabel('Name').fill('paula');
  await dialog.getByLabel('Password', { exact: true }).fill('short');
  await dialog.getByRole('button', { name: 'Add the user' }).click();
  await fieldSays(dialog, 'Password', /A password has 15 to 128 characters/);
  await dialog.getByLabel('Password', { exact: true }).fill('correct horse battery');
  await dialog.getByLabel('Role').selectOption('operator');
  await dialog.getByRole('button', { name: 'Add the user' }).click();
  const row = page.getByRole('row', { name: /paula/ });
  await row.getByText('operator', { exact: true }).waitFor();
  assert.equal(await dialog.count(), 0);
  assert.equal(await status('paula', 'correct horse battery'), 200);

  await page.getByRole('button', { name: 'Change: paula' }).click();
  await dialog.getByLabel('Role').selectOption('viewer');
  await dialog.getByLabel('Disabled').check();
  await dialog.getByRole('button', { name: 'Save' }).click();
  await row.getByText('disabled', { exact: true }).waitFor();
  await row.getByText('viewer', { exact: true }).waitFor();
  assert.equal(await status('paula', 'correct horse battery'), 401);
  await page.getByRole('button', { name: 'Change: paula' }).click();
  assert.ok(await dialog.getByLabel('Disabled').isChecked());
  await dialog.getByLabel('Disabled').uncheck();
  await dialog.getByRole('button', { name: 'Save' }).click();
  await row.getByText('disabled', { exact: true }).waitFor({ state: 'detached' });

  await page.getByRole('button', { name: 'Set password: paula' }).click();
  await dialog.getByLabel('Password', { exact: true }).fill('battery horse correct');
  await dialog.getByRole('button', { name: 'Set the password' }).click();
  await sees(page.locator('.notice'), 'The password of paula is set.');
  assert.equal(await status('paula', 'battery horse correct'), 200);

  await page.getByRole('button', { name: 'Delete: paula' }).click();
  await dialog.getByRole('button', { name: 'Delete the user' }).click();
  await row.waitFor({ state: 'detached' });
  assert.equal(await status('paula', 'battery horse correct'), 401);
});

inBrowser('the last administrator stays one, and the window says why', { as: ADMIN, at: '#/users' }, async (page) => {
  const dialog = page.getByRole('dialog');
  await page.getByRole('button', { name: 'Change: admin' }).click();
  await dialog.getByLabel('Role').selectOption('viewer');
  await dialog.getByRole('button', { name: 'Save' }).click();
  await dialog.getByRole('alert').getByText(/last administrator|administrator/i).waitFor();
  await dialog.getByRole('button', { name: 'Cancel' }).click();
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute('aria-label')), 'Change: admin');
});
