// Walks the whole flow with a JavaScript client library: openid-client or oauth4webapi.
//
// Prints `AUTHORIZE <url>`, reads where the user was sent back to, and goes on: code, API, refresh,
// introspection, revocation. Prints `OK` when all of it went as the library expects it to.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'

const require = createRequire(process.env.CLIENTS + '/package.json')
const load = (name) => import(pathToFileURL(require.resolve(name)))
const { ISSUER, CLIENT_ID, CLIENT_SECRET, CALLBACK, API } = process.env
const scope = 'packs:read downloads:read'

async function askUser(url) {
  console.log('AUTHORIZE', url.href)
  const lines = createInterface({ input: process.stdin })
  for await (const line of lines) return new URL(line.trim())
}

async function openidClient() {
  const client = await load('openid-client')
  const auth = CLIENT_SECRET ? client.ClientSecretBasic(CLIENT_SECRET) : client.None()
  const config = await client.discovery(new URL(ISSUER), CLIENT_ID, undefined, auth, { algorithm: 'oauth2' })
  const verifier = client.randomPKCECodeVerifier()
  const state = client.randomState()
  const url = client.buildAuthorizationUrl(config, {
    redirect_uri: CALLBACK, scope, state, code_challenge_method: 'S256',
    code_challenge: await client.calculatePKCECodeChallenge(verifier),
  })
  const back = await askUser(url)
  const first = await client.authorizationCodeGrant(config, back, { pkceCodeVerifier: verifier, expectedState: state })
  assert.equal((await client.fetchProtectedResource(config, first.access_token, new URL(API), 'GET')).status, 200)
  const second = await client.refreshTokenGrant(config, first.refresh_token)
  assert.notEqual(second.refresh_token, first.refresh_token)
  if (CLIENT_SECRET) assert.equal((await client.tokenIntrospection(config, second.access_token)).active, true)
  await client.tokenRevocation(config, second.refresh_token)
  await assert.rejects(client.refreshTokenGrant(config, second.refresh_token), { error: 'invalid_grant' })
}

async function oauth4webapi() {
  const oauth = await load('oauth4webapi')
  const issuer = new URL(ISSUER)
  const as = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, { algorithm: 'oauth2' }))
  const client = { client_id: CLIENT_ID }
  const auth = CLIENT_SECRET ? oauth.ClientSecretBasic(CLIENT_SECRET) : oauth.None()
  const verifier = oauth.generateRandomCodeVerifier()
  const state = oauth.generateRandomState()
  const url = new URL(as.authorization_endpoint)
  const parameters = {
    client_id: CLIENT_ID, redirect_uri: CALLBACK, response_type: 'code', scope, state, code_challenge_method: 'S256',
    code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
  }
  for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value)
  const back = await askUser(url)
  const answer = oauth.validateAuthResponse(as, client, back, state)
  const first = await oauth.processAuthorizationCodeResponse(
    as, client, await oauth.authorizationCodeGrantRequest(as, client, auth, answer, CALLBACK, verifier),
  )
  const got = await oauth.protectedResourceRequest(first.access_token, 'GET', new URL(API))
  assert.equal(got.status, 200)
  // The access token is a JWT of RFC 9068 behind its prefix: the library's own check agrees.
  const bare = first.access_token.replace(/^iat_/, '')
  const request = new Request(API, { headers: { authorization: 'Bearer ' + bare } })
  const claims = await oauth.validateJwtAccessToken(as, request, process.env.AUDIENCE)
  assert.equal(claims.client_id, CLIENT_ID)
  const second = await oauth.processRefreshTokenResponse(
    as, client, await oauth.refreshTokenGrantRequest(as, client, auth, first.refresh_token),
  )
  await oauth.processRevocationResponse(await oauth.revocationRequest(as, client, auth, second.refresh_token))
  await assert.rejects(oauth.protectedResourceRequest(second.access_token, 'GET', new URL(API)), (error) => {
    assert.equal(error.cause[0].parameters.error, 'invalid_token')
    return true
  })
}

await (process.argv[2] === 'openid-client' ? openidClient() : oauth4webapi())
console.log('OK')
process.exit(0)
