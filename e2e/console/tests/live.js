import assert from 'node:assert/strict';
import { ADMIN, api, inBrowser } from '../browser.js';

inBrowser('a page shows what others do, keeps the focus, and says when the manager is away', { as: ADMIN, at: '#/clusters', expected: /status of 4\d\d|ERR_FAILED|ERR_CONNECTION/ }, async (page) => {
  const first = await api('POST', '/clusters', { name: 'here' });
  const link = page.getByRole('link', { name: 'here', exact: true });
  await link.focus();
  await api('POST', '/clusters', { name: 'a-new-one' });
  await page.getByRole('link', { name: 'a-new-one' }).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.textContent), 'here');
  await page.getByText('Live', { exact: true }).waitFor();
  await page.route('**/api/v1/**', (route) => route.abort());
  await page.getByText('Not reachable: trying again').waitFor();
  await link.waitFor();
  await api('DELETE', `/clusters/${first.id}`);
  await page.unroute('**/api/v1/**');
  await link.waitFor({ state: 'detached' });
  await page.getByText('Live', { exact: true }).waitFor();
});
