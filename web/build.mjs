// Makes dist/try.html, one page with its script and style inline, from src/, and the mqtt.js of examples/web. The same
// packages give the same bytes.
//   node build.mjs           writes them
//   node build.mjs --check   fails if what is there differs
import { readFile, writeFile, mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const at = (path) => fileURLToPath(new URL(path, import.meta.url));

// Its licence asks that the notice goes with every copy.
const licence = await readFile(at('node_modules/mqtt/LICENSE.md'), 'utf8');
if (licence.includes('*/')) throw new Error('the licence of mqtt.js holds "*/"');
const notice = (what) => `/*! This ${what} contains mqtt.js.\n\n${licence.trim()}\n*/`;

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
const bundle = { platform: 'browser', define: { 'process.env.NODE_ENV': '"production"' } };
const script = await compile({ ...bundle, entryPoints: ['src/try.js'], format: 'iife', banner: { js: notice('page') } });
const library = await compile({
  ...bundle,
  stdin: { contents: "export { default } from 'mqtt';", resolveDir: at('.') },
  format: 'esm',
  banner: { js: notice('file') },
});

const made = {
  'dist/try.html': inline(inline(await readFile(at('src/try.html'), 'utf8'), 'style', style), 'script', script),
  '../examples/web/page/mqtt.js': `${library}\n`,
};
for (const [name, text] of Object.entries(made)) {
  const file = at(name);
  const bytes = Buffer.from(text);
  if (process.argv.includes('--check')) {
    const there = await readFile(file).catch(() => Buffer.alloc(0));
    if (!there.equals(bytes)) {
      console.error(`web/${name} is not what web/src and its packages give; run: cd web && npm ci && node build.mjs`);
      process.exitCode = 1;
    }
    continue;
  }
  await mkdir(dirname(file), { recursive: true });
  await writeFile(file, bytes);
  console.log(`${name}: ${bytes.length} bytes`);
}
