// All tests of the console, in one browser, one after the other. The manager is started by whoever runs this:
//
//   DARTER_CONSOLE_URL       where it listens, such as http://127.0.0.1:8080
//   DARTER_CONSOLE_PASSWORD  the password of the user admin
//   DARTER_CHROMIUM          the browser; /usr/bin/chromium by default
//   DARTER_CONSOLE_SHOTS     a folder for pictures of all pages; none by default

import { after } from 'node:test';
import { end } from './browser.js';

await import('./tests/sign-in.js');
await import('./tests/clusters.js');
await import('./tests/members.js');
await import('./tests/tokens.js');
await import('./tests/users.js');
await import('./tests/audit.js');
await import('./tests/live.js');
await import('./tests/pages.js');

after(end);
