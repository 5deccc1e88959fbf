// Makes dist/try.html, one page with its script and style inline, from src/. The same packages give the same bytes.
//   node build.mjs           writes it
//   node build.mjs --check   fails if what is there differs
import { readFile, writeFile, mkdir } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const at = (path) => fileURLToPath(new URL(path, import.meta.url));
const OUT = at('dist/try.html');

// Its licence asks that the notice goes with every copy.
const licence = await readFile(at('node_modules/mqtt/LICENSE.md'), 'utf8');
if (licence.includes('*/')) throw new Error('the licence of mqtt.js holds "*/"');
const NOTICE = `/*! This page contains mqtt.js.\n\n${licence.trim()}\n*/`;

const common = {
  absWorkingDir: at('.'),
  bundle: true,
  minify: true,
  write: false,
  charset: 'utf8',
  legalComments: 'none',
  sourcemap: false,
  target: 'es2022',
  logLevel: 'warning',
};

const compile = async (options) => (await build({ ...common, ...options })).outputFiles[0].text.trim();

function inline(page, name, text) {
  const mark = `{{${name}}}`;
  if (page.split(mark).length !== 2) throw new Error(`src/try.html must hold ${mark} once`);
  // The first would end the element early; the second changes how the parser reads a script.
  const element = new RegExp(`</${name}|<!--`, 'i');
  if (element.test(text)) throw new Error(`the ${name} holds "</${name}" or "<!--"`);
  return page.replace(mark, () => text);
}

const style = await compile({ entryPoints: ['src/try.css'] });
const script = await compile({
  entryPoints: ['src/try.js'],
  format: 'iife',
  platform: 'browser',
  define: { 'process.env.NODE_ENV': '"production"' },
  banner: { js: NOTICE },
});
const page = Buffer.from(inline(inline(await readFile(at('src/try.html'), 'utf8'), 'style', style), 'script', script));

if (process.argv.includes('--check')) {
  const there = await readFile(OUT).catch(() => Buffer.alloc(0));
  if (!there.equals(page)) {
    console.error('web/dist/try.html is not what web/src gives; run: cd web && npm ci && node build.mjs');
    process.exit(1);
  }
} else {
  await mkdir(at('dist'), { recursive: true });
  await writeFile(OUT, page);
  console.log(`dist/try.html: ${page.length} bytes`);
}
