// Walks the demo's sample clients in a real browser: login, consent (allow and deny), the API,
// Connected Applications, and what the content security policy forbids. Keeps pictures.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const require = createRequire(process.env.CLIENTS + '/package.json')
const { chromium } = (await import(pathToFileURL(require.resolve('playwright-core')))).default
const { PICTURES, PROFILE, RULES, EMAIL, PASSWORD } = process.env
const quiet = ['--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']
const context = await chromium.launchPersistentContext(PROFILE, {
  executablePath: '/usr/bin/chromium',
  ignoreHTTPSErrors: true,
  viewport: { width: 1000, height: 760 },
  args: ['--no-sandbox', '--disable-gpu', '--host-resolver-rules=' + RULES, ...quiet],
})
context.setDefaultTimeout(15_000)
const page = await context.newPage()
const picture = (name) => page.screenshot({ path: `${PICTURES}/${name}.png`, fullPage: true })
const said = (text) => page.waitForFunction((text) => document.getElementById('out').textContent.includes(text), text)

async function beginLogin() {
  await page.goto('http://127.0.0.1:9301/')
  await page.waitForFunction(() => document.getElementById('login').onclick !== null)
  await page.click('#login')
}

// A wrong password first: the page says so and keeps the address.
await beginLogin()
await page.waitForSelector('h1:has-text("Log in")')
await picture('login')
await page.fill('#email', EMAIL)
await page.fill('#password', 'not the password')
await page.click('button.primary')
await page.waitForSelector('[role=alert]')
assert.equal(await page.inputValue('#email'), EMAIL)
await picture('login-wrong')

// No script runs on our pages, whoever puts it there, and nothing is loaded from elsewhere.
const violations = []
page.on('console', (message) => violations.push(message.text()))
await page.evaluate(() => {
  const script = document.createElement('script')
  script.textContent = 'window.wasHere = true'
  document.body.append(script)
  const image = document.createElement('img')
  image.src = 'https://api.iconflow.dev/x.png'
  document.body.append(image)
  document.body.insertAdjacentHTML('beforeend', '<p onclick="window.wasHere = true" id="bait" style="color:red">x</p>')
})
await page.click('#bait')
assert.equal(await page.evaluate(() => window.wasHere), undefined, 'a script ran in spite of the policy')
assert.ok(violations.filter((text) => text.includes('Content Security Policy')).length >= 2, violations.join('\n'))

// Logged in with the keyboard alone: everything can be reached without a mouse.
await page.reload()
await page.fill('#email', EMAIL)
await page.keyboard.press('Tab')
await page.keyboard.type(PASSWORD)
await page.keyboard.press('Enter')
await page.waitForSelector('text=wants to use your IconFlow account')
await picture('consent')
await page.click('button[value=deny]')
await said('error: access_denied')

// Again, and allowed; the session is remembered, the consent of a loopback client is not.
await beginLogin()
await page.waitForSelector('text=wants to use your IconFlow account')
await page.emulateMedia({ colorScheme: 'dark' })
await page.setViewportSize({ width: 390, height: 760 })
await picture('consent-dark-mobile')
await page.emulateMedia({ colorScheme: 'light' })
await page.setViewportSize({ width: 1000, height: 760 })
await page.click('button[value=allow]')
await said('connected')
await picture('single-page-connected')
await page.click('#call')
await said('answer 200')
await page.click('#refresh')
await said('refreshed')
await page.click('#call')
await said('answer 200')

// The server-side client, in another tab.
const other = await context.newPage()
await other.goto('http://127.0.0.1:9302/')
await other.click('#login')
await other.click('button[value=allow]')
await other.waitForSelector('text=connected, scope packs:read; the API answers 200')
await other.screenshot({ path: `${PICTURES}/server-side-connected.png` })

// Connected Applications: what is there, and revoked.
await other.goto('https://auth.iconflow.dev/account/applications')
await other.waitForSelector('h2:has-text("PixelForge Reports")')
await other.screenshot({ path: `${PICTURES}/connected.png`, fullPage: true })
await other.emulateMedia({ colorScheme: 'dark' })
await other.setViewportSize({ width: 390, height: 760 })
await other.screenshot({ path: `${PICTURES}/connected-dark-mobile.png`, fullPage: true })
const overflow = await other.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth)
assert.equal(overflow, false, 'the page fits a phone')
await other.click('article:has-text("PixelForge Design Tool") button')
await other.waitForSelector('text=Access was revoked')
assert.equal(await other.locator('article').count(), 1)

// The single page has lost its access.
await page.click('#call')
await said('answer 401')
await picture('single-page-revoked')
await other.click('text=Log out')
await other.waitForSelector('h1:has-text("Log in")')

await context.close()
console.log('OK')
