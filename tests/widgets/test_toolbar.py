"""The toolbar: code that gives the very pictures, files, own images, the full width, keys."""

import io
import json
import struct

import numpy as np
import pytest
import torch
from counting import DIGITS, Counting
from PIL import Image
from test_browser import (
    CELLS,
    CHROMIUM,
    EXPLORER,
    PATIENCE,
    Kernel,
    chromium,
    jupyterlab,
    run_notebook,
    until,
    write_notebook,
)

import difflow as df
from difflow import (
    CompareExplorer,
    DirectionExplorer,
    GaussianDenoiser,
    NeighbourExplorer,
    Scheduler,
    SweepExplorer,
    SyntheticExplorer,
    TrajectoryExplorer,
)

SMALL = dict(steps=8, levels=4)
MEAN = GaussianDenoiser(DIGITS.tensor().mean(0), 0.3)
FLAT = GaussianDenoiser(torch.zeros(1, 28, 28), 0.6)


def png(picture):
    file = io.BytesIO()
    picture.save(file, 'png')
    return file.getvalue()


def half(mode='L', size=(60, 30)):
    "A picture that is white in the left half of the square in its middle."
    picture = Image.new(mode, size, 'black')
    picture.paste('white', (0, 0, size[0] // 2, size[1]))
    return picture


def executed(code, **objects):
    "Run the text of a cell, with objects under their names; return all names."
    space = dict(objects)
    exec(compile(code, '<cell>', 'exec'), space)
    return space


@pytest.fixture
def named(monkeypatch):
    "Put objects into the namespace of the user."
    import IPython

    class Shell:
        user_ns = {}
        kernel = None

    monkeypatch.setattr(Shell, 'user_ns', {})
    monkeypatch.setattr(IPython, 'get_ipython', lambda: Shell)

    def named(**objects):
        Shell.user_ns.update(objects)
        return Shell.user_ns

    return named


CHOICES = {
    'default': dict(),
    'levels': dict(levels=[0, 3, 7], seed=5, image=3, sampler='ddim'),
    'repo': dict(convention='repo', independent=True, steps=6),
    'scheduler': dict(scheduler=Scheduler.cosine(100)),
}


@pytest.mark.parametrize('case', CHOICES)
def test_the_code_of_a_sweep_gives_the_very_images(named, case):
    options = SMALL | CHOICES[case]
    space = named(net=MEAN, digits=DIGITS, grid=options.get('scheduler'))
    explorer = SweepExplorer(MEAN, DIGITS, **options)
    result = executed(explorer.code(), **space)['result']
    assert torch.equal(result.images[:, 0], explorer.images)
    assert (
        torch.equal(result.noised, explorer.sweep.noised) and result.steps_reverse == explorer.steps_reverse
    )
    assert 'put' not in explorer.code() and 'net, digits.tensor' in explorer.code().replace('\n    ', ' ')


def test_the_code_follows_the_choices(named):
    space = named(net=MEAN, digits=DIGITS)
    explorer = SweepExplorer(MEAN, DIGITS, **SMALL)
    for name, value in dict(seed=3, image=4, levels=[2, 8], sampler='ddim', steps=9).items():
        explorer.set_state({name: value})
        assert explorer.error == ''
        result = executed(explorer.code(), **space)['result']
        assert torch.equal(result.images[:, 0], explorer.images), name
        assert explorer._code.replace('⟨step_reverse⟩', str(explorer.step_reverse)) == explorer.code(), name


@pytest.mark.parametrize('images', ['tensor', 'double', 'pictures'])
def test_the_code_takes_images_as_they_were_given(named, images):
    given = dict(
        tensor=DIGITS.tensor(),
        double=DIGITS.tensor().double(),
        pictures=[Image.fromarray(x[0].numpy()) for x in DIGITS.images],
    )[images]
    space = named(mine=given, net=MEAN)
    explorer = SweepExplorer(MEAN, given, image=2, **SMALL)
    assert torch.equal(executed(explorer.code(), **space)['result'].images[:, 0], explorer.images)


def test_the_code_names_the_class_where_there_are_classes(named):
    classes = Counting(num_classes=10, null_class=True)
    space = named(net=classes, digits=DIGITS)
    explorer = SweepExplorer(classes, DIGITS, image=1, **SMALL)
    assert f'labels={int(DIGITS.labels[1])}' in explorer.code()
    executed(explorer.code(), **space)
    assert classes.labels.unique().tolist() == [int(DIGITS.labels[1])]
    explorer.label = None
    assert 'labels=' not in explorer.code()


@pytest.mark.parametrize('how', ['rows', 'mapping'])
def test_the_code_of_a_comparison_has_all_rows(named, how, monkeypatch):
    rows = {'mean': MEAN, 'flat one': FLAT, 'counting': Counting()}
    space = named(digits=DIGITS, a=MEAN, b=FLAT, c=rows['counting'])
    if how == 'mapping':
        space = named(models=rows)
    explorer = CompareExplorer(rows, DIGITS, image=2, seed=9, **SMALL)
    assert ("models['flat one']" in explorer.code()) == (how == 'mapping')
    results = executed(explorer.code(), **space)['results']
    assert list(results) == list(rows)
    for name, images in explorer.images.items():
        assert torch.equal(results[name].images[:, 0], images), name


def test_the_code_asks_for_what_has_no_name(named):
    space = named(images='not these')
    explorer = SweepExplorer(MEAN, DIGITS, **SMALL)
    code = explorer.code()
    assert '# denoiser: put the GaussianDenoiser of the explorer here' in code
    assert '# images_: put the ImageSet of the explorer here' in code  # `images` is something else
    with pytest.raises(NameError):
        executed(code, **space)
    assert torch.equal(executed(code, denoiser=MEAN, images_=DIGITS)['result'].images[:, 0], explorer.images)


def test_own_images_stand_in_the_code(named):
    space = named(net=MEAN, other=FLAT, digits=DIGITS)
    explorer = SweepExplorer(MEAN, DIGITS, **SMALL)
    explorer.set_state({'_own': memoryview(png(half()))})
    assert explorer.image == len(DIGITS)
    result = executed(explorer.code(), **space)['result']
    assert torch.equal(result.images[:, 0], explorer.images)
    compare = CompareExplorer({'a': MEAN, 'b': FLAT}, DIGITS, **SMALL)
    compare.set_state({'_own': png(half())})
    results = executed(compare.code(), **space)['results']
    assert all(torch.equal(results[name].images[:, 0], x) for name, x in compare.images.items())


def test_the_code_of_the_other_explorers(named):
    train, classes = DIGITS.tensor(), df.load_denoiser('mnist-class')
    space = named(net=FLAT, model=classes, digits=DIGITS, train=train)
    explorer = DirectionExplorer(FLAT, directions=2, strengths=[-3, 0, 3], sigma=2.0, steps=4)
    explorer.set_state({'seed': 5, 'direction': 1, 'strength': 3})
    again = executed(explorer.code(), **space)['explorer']
    assert torch.equal(again.images, explorer.images)
    assert (again.direction, again.strength, again.seed) == (1, 3.0, 5)

    explorer = NeighbourExplorer(train[:3], train, descriptor='mnist5k', k=2)
    explorer.set_state({'sample': 2, 'n': 4})
    again = executed(explorer.code(), samples=train[:3], **space)['explorer']
    assert torch.equal(again.neighbours, explorer.neighbours) and (again.sample, again.n) == (2, 4)
    assert torch.equal(again.similarity, explorer.similarity)

    explorer = SyntheticExplorer(classes, DIGITS, count=2, steps=2)
    explorer.set_state({'label': 3, 'guidance': 2.0, 'seed': 7})
    again = executed(explorer.code(), **space)['explorer']
    assert torch.equal(again.images, explorer.images) and again.answers == explorer.answers


def trajectory():
    "An explorer of codes that are random numbers."
    from difflow import ConcatMixer, SingleTime

    torch.manual_seed(0)
    times, codes = [0.1, 0.5, 0.9], torch.randn(6, 3, 4)
    single = SingleTime().fit(codes, DIGITS.labels)
    mixer = ConcatMixer().fit(codes, DIGITS.labels)
    given = dict(images=DIGITS, codes=codes, single=single, mixer=mixer)
    return TrajectoryExplorer(DIGITS, codes, times, single, {'concat': mixer}, seed=2), given


def shown_names(explorer):
    "The choices that are shown, and the pictures."
    return explorer._answered, explorer.static().tobytes()


def test_the_code_of_a_trajectory(named):
    explorer, given = trajectory()
    explorer.set_state({'image': 4, 't': 0.5})
    space = named(**given)
    again = executed(explorer.code(), **space)['explorer']
    assert torch.equal(again._noised_images(), explorer._noised_images())
    assert (again.answers, again.t, shown_names(again)) == (explorer.answers, 0.5, shown_names(explorer))


# Files


def asked(explorer, kind, n=5):
    explorer.set_state({'_asked': {'kind': kind, 'n': n}})
    assert explorer.error == ''
    (length,) = struct.unpack('<I', explorer._file[:4])
    head = json.loads(explorer._file[4 : 4 + length])
    assert head == {'n': n, 'name': f'{type(explorer).__name__}.{kind}'}
    return Image.open(io.BytesIO(explorer._file[4 + length :]))


def all_explorers():
    train = DIGITS.tensor()
    yield SweepExplorer(MEAN, DIGITS, **SMALL), 5
    yield CompareExplorer({'a': MEAN, 'b': FLAT}, DIGITS, **SMALL), 5
    yield DirectionExplorer(FLAT, directions=1, strengths=[-3, 0, 3], sigma=2.0, steps=2), 3
    yield NeighbourExplorer(train[:3], train, k=2), 6
    yield SyntheticExplorer(df.load_denoiser('mnist-class'), DIGITS, count=2, steps=2), 2
    yield trajectory()[0], 3


def test_files_of_every_explorer():
    for explorer, frames in all_explorers():
        picture = asked(explorer, 'png')
        assert picture.format == 'PNG' and picture.tobytes() == explorer.static().tobytes()
        movie = asked(explorer, 'gif', n=6)
        assert (movie.format, movie.n_frames) == ('GIF', frames), explorer
        explorer.set_state({'_asked': {}})  # it has arrived: not kept in the state
        assert explorer._file == b''
        explorer.set_state({'_asked': {'kind': 'exe', 'n': 1}})
        assert explorer.error == "not saved: a file is 'png' or 'gif', got 'exe'" and explorer._file == b''


def test_no_file_of_pictures_that_are_not_complete():
    denoiser = Counting()
    explorer = SweepExplorer(denoiser, DIGITS, background=True, **SMALL).wait(30)
    denoiser.gate.clear()
    explorer.seed = 1
    explorer.set_state({'_asked': {'kind': 'gif', 'n': 1}})
    assert explorer.error.startswith('not saved: the pictures are not complete') and explorer._file == b''
    denoiser.gate.set()
    explorer.wait(30)
    assert asked(explorer, 'gif').n_frames == 5


def test_the_command_line_writes_the_same_animation(difflow_here, tmp_path):
    line = 'sweep --image 3 --steps 6 --levels 4 --out s.png --gif s.gif --seed 2'
    code, _, err = difflow_here(line)
    assert code == 0, err
    images = df.load_images('mnist5k', split='test')
    explorer = SweepExplorer(df.load_denoiser('mnist'), images, image=3, steps=6, levels=3, seed=2)
    assert asked(explorer, 'gif').fp.getvalue() == (tmp_path / 's.gif').read_bytes()


# Own images


def test_an_own_image_is_one_more_image():
    explorer = SweepExplorer(MEAN, DIGITS, thumbnails=4, **SMALL)
    explorer.set_state({'_own': memoryview(png(half()))})
    assert (explorer.image, explorer._own, explorer.error) == (6, b'', '')
    assert explorer._page == 1 and explorer._shelf == {
        'start': 4,
        'count': 7,
        'names': [*DIGITS.names[4:], 'own 1'],
    }
    x0 = explorer.sweep.x0[0, 0]
    assert x0[:, :13].min() > 0.9 and x0[:, 15:].max() < -0.9
    explorer.image = 0
    explorer.set_state({'_own': png(half())})  # the same file again
    assert explorer.image == 7 and explorer._shelf['names'][-1] == 'own 2'
    explorer.image = 6
    assert torch.equal(explorer.sweep.x0[0, 0], x0)
    with pytest.raises(ValueError, match='image must be an int in 0..7, got 8'):
        explorer.image = 8


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'L', 'CMYK'])
@pytest.mark.parametrize('shape', [(1, 28, 28), (3, 16, 16), (3, 8, 6), (1, 6, 8)])
def test_own_images_get_channels_and_size_of_the_model(mode, shape):
    file = io.BytesIO()
    half('RGB').convert(mode).save(file, 'tiff')
    explorer = SweepExplorer(
        GaussianDenoiser(torch.zeros(shape), 1.0), torch.zeros(2, *shape), steps=2, levels=1
    )
    explorer.set_state({'_own': file.getvalue()})
    assert explorer.error == '' and explorer.image == 2
    assert explorer.sweep.x0.shape == (1, *shape)
    assert explorer.sweep.x0[..., 0].mean() > 0.9 and explorer.sweep.x0[..., -1].mean() < -0.9


def test_own_images_are_resized_as_files_are(tmp_path):
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (90, 70, 3), np.uint8))
    photo.save(tmp_path / 'photo.png')
    explorer = SweepExplorer(MEAN, DIGITS, **SMALL)
    explorer.set_state({'_own': (tmp_path / 'photo.png').read_bytes()})
    assert torch.equal(explorer.sweep.x0, df.load_images(tmp_path / 'photo.png', 28, 1).tensor())


@pytest.mark.parametrize(
    'data, sentence',
    [
        (b'', ''),
        (b'no picture', 'own image: unreadable image'),
        (png(half())[:60], 'own image: unreadable image'),
        (bytes(20_000_001), 'an own image must have at most 20,000,000 bytes, got 20,000,001'),
    ],
)
def test_what_is_no_image_is_refused_in_a_sentence(data, sentence):
    explorer = SweepExplorer(MEAN, DIGITS, **SMALL)
    before = explorer.images
    explorer.set_state({'_own': data})
    assert explorer.error.startswith(sentence) and bool(explorer.error) == bool(sentence)
    assert (explorer.image, explorer._own, explorer._shelf['count']) == (0, b'', 6)
    assert explorer.images is not None and torch.equal(explorer.images, before)
    explorer.set_state({'_own': png(half())})
    assert (explorer.image, explorer.error) == (6, '')


def test_an_own_image_has_no_class_of_its_own():
    for null_class, label in ((True, None), (False, 0)):
        explorer = SweepExplorer(Counting(10, null_class), DIGITS, **SMALL)
        explorer.set_state({'_own': png(half())})
        assert explorer.label == label
        explorer.label = 3
        explorer.image = 0
        assert explorer.label == 3  # chosen by hand: it stays


# The browser

RECEIVE = '([name, bytes]) => window.receive({ [name]: new DataView(new Uint8Array(bytes).buffer) })'
COPY = '() => { navigator.clipboard.writeText = async (text) => { window.copied = text; }; }'
LISTEN = '() => { window.heard = []; document.addEventListener("keydown", (e) => window.heard.push(e.key)); }'
REACHED = 'document.querySelector(".df-strip [aria-selected=true] .df-tick").textContent === "2"'
REFUSE = '() => { navigator.clipboard.writeText = () => Promise.reject(new Error("no")); }'


def sent(page, name):
    "What was sent to Python under a name, in turn; of bytes, their number."
    return page.evaluate(
        """(name) => window.sent.filter((m) => name in m).map((m) => m[name]?.byteLength ?? m[name])""", name
    )


def test_the_toolbar_on_a_page(on_a_page, tmp_path):
    explorer = SweepExplorer(MEAN, DIGITS, image=3, thumbnails=4, **SMALL)
    with on_a_page(explorer, width=550) as page:
        buttons = page.locator('.df-toolbar button')
        for i in range(buttons.count()):
            title = buttons.nth(i).get_attribute('title')
            assert title and buttons.nth(i).get_attribute('aria-label') == title
        tools = [button.get_attribute('data-tool') for button in buttons.all()]
        assert tools == ['code', 'png', 'gif', 'upload', 'paste', 'draw', 'wide', 'help']

        # the clipboard is refused: the code in a selected field
        page.evaluate(REFUSE)
        page.locator('[data-tool=code]').click()
        area = page.locator('textarea.df-code')
        assert area.input_value() == explorer.code()
        chosen = area.evaluate('(node) => node.value.slice(node.selectionStart, node.selectionEnd)')
        assert chosen == explorer.code()
        page.keyboard.press('Escape')
        page.locator('dialog').wait_for(state='detached')
        page.locator('.df-film input').press('Home')
        page.evaluate(COPY)
        page.locator('[data-tool=code]').click()
        explorer.step_reverse = 0
        assert page.evaluate('window.copied') == explorer.code()

        # a file: asked for, made by Python, saved by the browser; that of another view is not
        for kind in ('png', 'gif'):
            page.locator(f'[data-tool={kind}]').click()
            request = sent(page, '_asked')[-1]
            assert request['kind'] == kind
            explorer.set_state({'_asked': request})
            with page.expect_download() as download:
                page.evaluate(RECEIVE, ['_file', list(explorer._file)])
            assert download.value.suggested_filename == f'SweepExplorer.{kind}'
            download.value.save_as(tmp_path / kind)
            with Image.open(tmp_path / kind) as picture:
                assert picture.format == kind.upper()
                if kind == 'png':
                    assert picture.tobytes() == explorer.static().tobytes()
            assert sent(page, '_asked')[-1] == {}

        # the full width
        body = page.locator('.df-body')
        page.set_viewport_size({'width': 1700, 'height': 900})
        before = body.bounding_box()['width']
        page.locator('[data-tool=wide]').click()
        assert body.bounding_box()['width'] > max(before, 1600)
        assert page.locator('[data-tool=wide]').get_attribute('aria-pressed') == 'true'
        page.locator('[data-tool=wide]').click()
        assert body.bounding_box()['width'] == before

        # any image by its index
        field = page.locator('.df-shelf input')
        assert (field.get_attribute('min'), field.get_attribute('max')) == ('0', '5')
        field.fill('5')
        field.press('Enter')
        assert sent(page, 'image') == [5]
        assert page.locator('.df-explorer').get_attribute('data-lm-suppress-shortcuts') == 'true'


def test_keys_do_what_the_help_lists(on_a_page):
    explorer = SweepExplorer(MEAN, DIGITS, step_reverse=4, **SMALL)
    with on_a_page(explorer) as page:
        level = lambda: page.locator('.df-strip [aria-selected=true] .df-tick').first.inner_text()
        strip = page.locator('.df-strip')
        strip.press('?')
        listed = page.locator('dialog kbd').all_inner_texts()
        assert listed == [*'←↓→↑', 'PageUp', 'PageDown', 'Home', 'End', 'Space', 'Ctrl+V', '?', 'Esc']
        page.keyboard.press('Escape')
        page.locator('dialog').wait_for(state='detached')
        assert page.evaluate('document.activeElement.className') == 'df-strip'
        steps = dict(ArrowLeft=2, ArrowRight=4, ArrowDown=2, ArrowUp=4, Home=0, PageUp=8, PageDown=0, End=8)
        for key, r in steps.items():
            strip.press(key)
            assert level() == str(r), key
        play = page.locator('[data-play]')
        strip.press('Space')
        assert play.get_attribute('aria-label') == 'Pause'
        until(lambda: page.evaluate(REACHED))
        strip.press('Space')
        assert play.get_attribute('aria-label') == 'Play'
        play.press('Space')  # a button: pressed once, not twice
        assert play.get_attribute('aria-label') == 'Pause'
        play.click()

        # what is typed into a field is text there, and nothing else
        page.evaluate(LISTEN)
        levels = page.locator('[data-choice=levels]')
        levels.fill('')
        levels.press('?')
        levels.press('Space')
        assert levels.input_value() == '? ' and page.locator('dialog').count() == 0
        assert page.evaluate('window.heard') == [] and play.get_attribute('aria-label') == 'Play'


def test_own_images_from_the_browser(on_a_page, tmp_path):
    (tmp_path / 'photo.png').write_bytes(png(half()))
    explorer = CompareExplorer({'a': MEAN, 'b': FLAT}, DIGITS, **SMALL)
    with on_a_page(explorer) as page:
        page.locator('.df-toolbar input[type=file]').set_input_files(tmp_path / 'photo.png')
        until(lambda: page.evaluate('window.sent.some((m) => "_own" in m)'))
        grab = '() => [...new Uint8Array(window.sent.filter((m) => "_own" in m).pop()._own.buffer)]'
        explorer.set_state({'_own': bytes(page.evaluate(grab))})
        assert explorer.image == 6 and explorer.sweeps['a'].x0[0, 0, :, :13].min() > 0.9

        # pasted: the explorer has the focus, not a field
        paste = """([where, bytes]) => {
          const data = new DataTransfer();
          if (bytes) data.items.add(new File([new Uint8Array(bytes)], 'p.png', { type: 'image/png' }));
          const event = new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true });
          return !document.querySelector(where).dispatchEvent(event);
        }"""
        count = len(sent(page, '_own'))
        assert page.evaluate(paste, ['.df-strip', list(png(half()))])
        until(lambda: page.evaluate(f'window.sent.filter((m) => "_own" in m).length === {count + 1}'))
        assert not page.evaluate(paste, ['[data-choice=levels]', list(png(half()))])
        assert page.evaluate(paste, ['.df-explorer', None])
        assert page.locator('.df-remark').inner_text() == 'There is no picture in the clipboard.'

        # drawn: two strokes, one taken back
        page.locator('[data-tool=draw]').click()
        box = page.locator('.df-pad').bounding_box()
        use = page.get_by_role('button', name='Use')
        assert use.is_disabled() and page.locator('dialog input[type=color]').count() == 0
        for x in (0.25, 0.75):
            page.mouse.move(box['x'] + x * box['width'], box['y'] + 0.1 * box['height'])
            page.mouse.down()
            page.mouse.move(box['x'] + x * box['width'], box['y'] + 0.9 * box['height'], steps=4)
            page.mouse.up()
        page.get_by_role('button', name='Undo').click()
        use.click()
        until(lambda: page.evaluate(f'window.sent.filter((m) => "_own" in m).length === {count + 2}'))
        explorer.set_state({'_own': bytes(page.evaluate(grab))})
        assert explorer.error == '' and explorer._offered.images.names[-1] == 'own 2'
        drawn = explorer.sweeps['a'].x0[0, 0]
        assert drawn[8:20, 7].min() > 0.9 and drawn[:, 14:].max() < -0.9 and drawn[0].max() < -0.5

        # too large
        page.evaluate("""() => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(20000001)], 'big.png', { type: 'image/png' }));
          const event = new ClipboardEvent('paste', { clipboardData: data, bubbles: true });
          document.querySelector('.df-strip').dispatchEvent(event);
        }""")
        assert (
            page.locator('.df-remark').inner_text()
            == 'An own image must have at most 20 MB, this one has 20.0.'
        )
        assert len(sent(page, '_own')) == count + 2


def test_without_a_kernel_code_can_be_copied_and_files_not(on_a_page):
    explorer = SweepExplorer(MEAN, DIGITS, step_reverse=4, **SMALL)
    with on_a_page(explorer, _static=True) as page:
        for tool in ('png', 'gif', 'upload', 'paste', 'draw'):
            button = page.locator(f'[data-tool={tool}]')
            assert button.is_disabled() and 'needs a kernel' in button.get_attribute('title')
        page.evaluate(COPY)
        page.locator('[data-tool=code]').click()
        assert page.evaluate('window.copied') == explorer.code()
        page.locator('[data-tool=help]').click()
        assert page.locator('dialog').count() == 1
        page.evaluate('window.end()')
        assert page.locator('dialog').count() == 0 and page.evaluate('window.listening()') == 0


def test_toolbars_of_the_other_explorers(on_a_page):
    for explorer, _ in list(all_explorers())[2:]:
        with on_a_page(explorer, width=250) as page:
            tools = [button.get_attribute('data-tool') for button in page.locator('.df-toolbar button').all()]
            assert tools == ['code', 'png', 'gif', 'wide', 'help'], explorer
            bar = page.locator('.df-toolbar')
            assert bar.evaluate('(node) => node.scrollWidth <= node.clientWidth')
            page.evaluate(COPY)
            page.locator('[data-tool=code]').click()
            assert page.evaluate('window.copied') == explorer.code()


@pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on this machine')
def test_the_toolbar_in_jupyterlab(tmp_path):
    pytest.importorskip('playwright', reason='playwright is not installed')
    (tmp_path / 'root').mkdir()
    write_notebook(tmp_path / 'root' / 'toolbar.ipynb', CELLS)
    (tmp_path / 'photo.png').write_bytes(png(half()))
    with jupyterlab(tmp_path) as (url, runtime), chromium() as browser:
        allowed = ['clipboard-read', 'clipboard-write']
        page = browser.new_context(viewport={'width': 1400, 'height': 1100}, permissions=allowed).new_page()
        explorer = run_notebook(page, url, runtime, 'toolbar.ipynb')
        kernel = Kernel(runtime)
        tool = lambda name: explorer.locator(f'[data-tool={name}]')

        def complete(image):
            kernel.until(f'{EXPLORER}.image', image)
            kernel.ask(f'{EXPLORER}.wait({PATIENCE}) is not None')
            page.locator('.df-explorer[aria-busy="false"]').first.wait_for()

        complete(0)
        with page.expect_download() as download:
            tool('gif').click()
        download.value.save_as(tmp_path / 'sweep.gif')
        with Image.open(tmp_path / 'sweep.gif') as movie:
            assert movie.n_frames == kernel.ask(f'len({EXPLORER}.steps_reverse)')
        kernel.until(f'len({EXPLORER}._file)', 0)

        explorer.locator('input[type=file]').set_input_files(tmp_path / 'photo.png')
        complete(24)
        bytes_of = 'new Uint8Array([' + ','.join(map(str, png(half('RGB')))) + '])'
        blob = f'new Blob([{bytes_of}], {{ type: "image/png" }})'
        page.evaluate(f'() => navigator.clipboard.write([new ClipboardItem({{ "image/png": {blob} }})])')
        explorer.get_by_role('listbox').focus()
        page.keyboard.press('Control+v')
        complete(25)
        assert page.locator('.jp-Notebook .jp-CodeCell').count() == len(CELLS)

        tool('paste').click()
        complete(26)
        for key in 'ddb':  # to JupyterLab: delete the cell, a cell below
            tool('png').press(key)
        assert page.locator('.jp-Notebook .jp-CodeCell').count() == len(CELLS)
        tool('help').press('?')
        page.locator('dialog.df-dialog').wait_for()
        page.keyboard.press('Escape')

        tool('code').click()
        explorer.locator('.df-remark', has_text='Copied').wait_for()
        code = page.evaluate('() => navigator.clipboard.readText()')
        assert code == kernel.ask(f'{EXPLORER}.code()')
        assert 'df.sweep(\n    denoiser,' in code
        kernel.client.execute(code, reply=True, timeout=PATIENCE)
        same = f"__import__('torch').equal(result.images[:, 0], {EXPLORER}.images)"
        assert kernel.ask(same)
