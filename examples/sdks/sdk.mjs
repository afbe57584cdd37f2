// One call of an SDK, with the retries that it makes by default: sdk.mjs NAME BASE_URL; or --version NAME.
// A hung API would hold most of them for minutes: where an SDK has a timeout, it is three seconds here.
import { readFileSync } from 'node:fs'

const TIMEOUT = 3000
const quiet = { debug() {}, info() {}, warn() {}, error() {} }

const sdks = {
  async openai(base) {
    const { default: OpenAI } = await import('openai')
    await new OpenAI({ apiKey: 'sk-x', baseURL: `${base}/v1`, timeout: TIMEOUT }).models.list()
  },
  async octokit(base) {
    const { Octokit } = await import('@octokit/core')
    const { retry } = await import('@octokit/plugin-retry')
    const { throttling } = await import('@octokit/plugin-throttling')
    const again = (_after, _options, _octokit, count) => count < 1
    const octokit = new (Octokit.plugin(retry, throttling))({
      auth: 'x', baseUrl: base, log: quiet, throttle: { onRateLimit: again, onSecondaryRateLimit: again }
    })
    const request = { signal: AbortSignal.timeout(4 * TIMEOUT) }
    await octokit.request('GET /users/octocat', { request })
  },
  async got(base) {
    const { default: got } = await import('got')
    await got(`${base}/things`, { timeout: { request: TIMEOUT } })
  },
  async stripe(base) {
    const { default: Stripe } = await import('stripe')
    const { hostname, port } = new URL(base)
    await new Stripe('sk_test_x', {
      protocol: 'http', host: hostname, port: port || 80, timeout: TIMEOUT, telemetry: false,
      httpClient: Stripe.createFetchHttpClient()
    }).balance.retrieve()
  }
}

const packages = { octokit: '@octokit/core' }
const [name, base] = process.argv.slice(2)
if (name === '--version') {
  const path = new URL(`node_modules/${packages[base] ?? base}/package.json`, import.meta.url)
  console.log(JSON.parse(readFileSync(path)).version)
} else {
  await sdks[name](base).then(
    () => console.log('OK'),
    (error) => console.log('ERROR', error.name, String(error.message).slice(0, 200).replaceAll('\n', ' '))
  )
  process.exit(0)
}
