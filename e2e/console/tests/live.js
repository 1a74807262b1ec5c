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

inBrowser('an answer that comes late does not hide what came since', { as: ADMIN, at: '#/clusters' }, async (page) => {
  await page.getByText('Live', { exact: true }).waitFor();
  const looksAgain = () => page.evaluate(() => void document.dispatchEvent(new Event('visibilitychange')));
  let release;
  const released = new Promise((done) => (release = done));
  let held;
  const isHeld = new Promise((done) => (held = done));
  await page.route('**/api/v1/clusters', async (route) => {
    const response = await route.fetch();
    held();
    await released;
    await route.fulfill({ response });
  }, { times: 1 });
  await looksAgain();
  await isHeld;
  const late = await api('POST', '/clusters', { name: 'come-since' });
  await looksAgain();
  await page.getByRole('link', { name: 'come-since' }).waitFor();
  await page.evaluate(() => {
    window.lost = false;
    new MutationObserver(() => (window.lost ||= !document.body.textContent.includes('come-since'))).observe(document.body, { childList: true, subtree: true });
  });
  const answered = page.waitForResponse('**/api/v1/clusters');
  release();
  await answered;
  // What is asked after it is answered after it was drawn.
  const next = page.waitForResponse('**/api/v1/clusters');
  await looksAgain();
  await next;
  await page.getByRole('link', { name: 'come-since' }).waitFor();
  assert.equal(await page.evaluate(() => window.lost), false);
  await api('DELETE', `/clusters/${late.id}`);
});
