// The editor in Chromium, for test_browser.py and for people: what a workflow looks like and comes to in the real frontend.
//
//   node editor.mjs CHROMIUM PLAYWRIGHT_CORE URL < jobs.json > answers.json
//
// jobs.json: [{"file": "a.json", "picture": "a.png", "run": seconds or 0, "after": "a-run.png"}, ...]; an answer a job, see `look`.
// With "api": "api/a.json" a job also writes what the editor would send to the queue; "settings": {"Comfy.VueNodes.Enabled": true}
// are set in the editor before it, and stay; "change" is JavaScript that does something to the graph before it is looked at.
// {"templates": PACK, "picture": "a.png"} opens Browse Templates at a pack instead.
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const QUIET = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update',
  '--disable-sync', '--disable-default-apps', '--disable-extensions', '--no-first-run', '--metrics-recording-only',
  '--disable-domain-reliability', '--disable-features=OptimizationHints,MediaRouter,Translate'
]

export async function openEditor(chromium, playwright, url, settings = {}) {
  const { chromium: engine } = createRequire(import.meta.url)(playwright)
  const browser = await engine.launch({ executablePath: chromium, args: QUIET, headless: true })
  const context = await browser.newContext({ viewport: { width: 1920, height: 1080 } })
  // Only the server under test: the frontend would ask the world for its news and its templates.
  await context.route((where) => where.origin !== new URL(url).origin && where.protocol.startsWith('http'), (route) =>
    route.abort()
  )
  const page = await context.newPage()
  const said = { errors: [], refused: [] }
  page.on('pageerror', (error) => said.errors.push(String(error.stack || error)))
  page.on('response', (answer) => {
    if (answer.status() >= 400) said.refused.push(`${answer.status()} ${answer.request().method()} ${answer.url().replace(url, '')}`)
  })
  for (const [id, value] of Object.entries({ 'Comfy.TutorialCompleted': true, 'Comfy.Workflow.Persist': false, 'LiteGraph.Canvas.MinFontSizeForLOD': 0, ...settings }))
    await fetch(`${url}/api/settings/${id}`, { method: 'POST', body: JSON.stringify(value), headers: { 'Content-Type': 'application/json' } })
  await page.goto(url)
  await page.waitForFunction(() => window.app?.graph && window.LiteGraph?.registered_node_types?.SSIInverseSampler, null, { timeout: 120000 })
  await page.waitForTimeout(1500) // the default workflow comes a moment after the graph
  return { browser, page, said }
}

/** Put the whole graph (or the nodes of these ids) into the window. */
export async function fit(page, ids = null) {
  await page.evaluate((ids) => {
    const items = [...app.graph._nodes.filter((n) => !ids || ids.includes(n.id)), ...(ids ? [] : app.graph._groups)]
    const boxes = items.map((item) => (item.getBounding ? item.getBounding() : item.boundingRect))
    const left = Math.min(...boxes.map((b) => b[0])), top = Math.min(...boxes.map((b) => b[1]))
    const right = Math.max(...boxes.map((b) => b[0] + b[2])), bottom = Math.max(...boxes.map((b) => b[1] + b[3]))
    const [width, height] = [innerWidth - 120, innerHeight - 120]
    const scale = Math.min(width / (right - left), height / (bottom - top), 1.5)
    const { ds } = app.canvas
    ds.scale = scale
    ds.offset[0] = 80 / scale - left + (width - (right - left) * scale) / 2 / scale
    ds.offset[1] = 70 / scale - top + (height - (bottom - top) * scale) / 2 / scale
    app.canvas.setDirty(true, true)
  }, ids)
  await page.waitForTimeout(900)
}

export async function load(page, content) {
  await page.evaluate(async (content) => {
    await app.loadGraphData(content)
  }, content)
  await page.waitForTimeout(600)
}

/** What is wrong with the graph as it stands, and what it comes to. */
export async function look(page) {
  return page.evaluate(async () => {
    const { output } = await app.graphToPrompt()
    // Where model files come from: kept by the editor, left out of what it queues, and told by `ssi comfy run`.
    for (const { id, properties } of app.graph._nodes) if (properties?.models && output[id]) output[id]._meta.models = properties.models
    const nodes = app.graph._nodes.map((n) => {
      const b = n.getBounding ? n.getBounding() : n.boundingRect
      return { id: n.id, type: n.type, title: n.title, box: [b[0], b[1], b[2], b[3]], least: [...n.computeSize()], size: [...n.size] }
    })
    const missing = nodes.filter((n) => !(n.type in LiteGraph.registered_node_types)).map((n) => n.type)
    const groups = app.graph._groups.map((g) => ({ title: g.title, box: [...g._bounding].map(Number) }))
    return { prompt: output, nodes, missing, groups }
  })
}

/** Press Run; how it ended, and which nodes show how many pictures. */
export async function run(page, seconds) {
  return page.evaluate(async (seconds) => {
    const heard = new Promise((resolve) => {
      const ends = { execution_success: 'done', execution_error: 'failed', execution_interrupted: 'interrupted' }
      for (const [name, word] of Object.entries(ends))
        app.api.addEventListener(name, (event) => resolve({ word, told: event.detail }), { once: true })
      setTimeout(() => resolve({ word: 'silent' }), seconds * 1000)
    })
    await app.queuePrompt(0)
    const end = await heard
    await new Promise((resolve) => setTimeout(resolve, 2500)) // pictures have to arrive
    const shown = {}
    for (const n of app.graph._nodes) {
      const pictures = (n.imgs ?? []).filter((img) => img.naturalWidth > 0).map((img) => [img.naturalWidth, img.naturalHeight])
      const texts = (n.widgets ?? []).filter((w) => /preview/i.test(w.name) && typeof w.value === 'string').map((w) => w.value)
      shown[n.title] = { pictures, texts, outputs: app.nodeOutputs?.[n.id] ?? null }
    }
    return { ...end, shown }
  }, seconds)
}

/** Browse Templates, at a pack: its words and its pictures, [file, width]. */
export async function templates(page, pack, picture) {
  await page.evaluate(() => app.extensionManager.command.execute('Comfy.BrowseTemplates'))
  const entry = page.locator('[role=dialog]').getByText(pack, { exact: true }).first()
  await entry.waitFor({ timeout: 20000 })
  await entry.dispatchEvent('click') // older editors lay a toast over it
  await page.waitForTimeout(3000)
  if (picture) await page.screenshot({ path: picture })
  const shown = await page.evaluate(() => {
    const dialog = document.querySelector('[role=dialog]')
    const images = [...dialog.querySelectorAll('img')].map((i) => [decodeURIComponent(i.src).split('/').pop(), i.naturalWidth])
    return { text: dialog.innerText, images }
  })
  await page.keyboard.press('Escape')
  return shown
}

async function main([chromium, playwright, url]) {
  const jobs = JSON.parse(readFileSync(0, 'utf8'))
  const { browser, page, said } = await openEditor(chromium, playwright, url)
  const answers = []
  try {
    for (const job of jobs) {
      said.errors.length = said.refused.length = 0
      for (const [id, value] of Object.entries(job.settings ?? {}))
        await page.evaluate(([id, value]) => app.extensionManager.setting.set(id, value), [id, value])
      if (job.templates) {
        answers.push(await templates(page, job.templates, job.picture))
        continue
      }
      await load(page, JSON.parse(readFileSync(job.file, 'utf8')))
      await page.keyboard.press('Escape') // older editors put a dialog about missing models before the graph
      if (job.change) await page.evaluate(job.change)
      const answer = await look(page)
      await fit(page)
      if (job.picture) await page.screenshot({ path: job.picture })
      if (job.run) {
        // Of what an earlier workflow has left in the cache, nothing would be run, nor shown.
        await fetch(`${url}/free`, { method: 'POST', body: '{"free_memory": true}', headers: { 'Content-Type': 'application/json' } })
        answer.run = { ...(await run(page, job.run)), nodes: (await look(page)).nodes }
        await fit(page)
        await page.screenshot({ path: job.after })
      }
      if (job.api) writeFileSync(job.api, JSON.stringify(answer.prompt, null, 2) + '\n')
      answers.push({ ...answer, errors: [...said.errors], refused: [...said.refused] })
    }
  } finally {
    await browser.close()
  }
  process.stdout.write(JSON.stringify(answers))
}

if (process.argv[1]?.endsWith('editor.mjs')) await main(process.argv.slice(2))
