"""Downloads: interrupted, resumed, changed in between, wrong, from several servers, by several processes."""

import base64
import hashlib
import http.server
import multiprocessing
import threading

import pytest
import torch

from difflow.checkpoints.downloads import _cached, _download

WHOLE = bytes(range(256)) * 1000


class Server(http.server.BaseHTTPRequestHandler):
    "Serve `body`, with the abilities and faults that the test sets on the server."

    protocol_version = 'HTTP/1.1'

    def do_GET(self):
        s, wanted = self.server, self.headers.get('Range')
        s.asked.append(wanted)
        if s.refuse:
            return self.reply(s.refuse, b'', {'Content-Length': 0})
        same = self.headers.get('If-Range') in (None, s.etag)
        start = int(wanted[6:-1]) if wanted and s.ranges and same else 0
        if start >= len(s.body) and start:
            return self.reply(416, b'', {'Content-Range': f'bytes */{len(s.body)}', 'Content-Length': 0})
        headers = {'Content-Length': len(s.body) - start} | ({'ETag': s.etag} if s.etag else {})
        if start:
            headers['Content-Range'] = f'bytes {start + s.shift}-{len(s.body) - 1}/{len(s.body)}'
        if s.md5:
            headers['Content-MD5'] = s.md5
        cut = s.cuts.pop(0) if s.cuts else None
        self.reply(206 if start else 200, s.body[start:][:cut], headers)
        if cut is not None:
            self.close_connection = True

    def reply(self, status, body, headers):
        self.send_response(status)
        for header in headers.items():
            self.send_header(*map(str, header))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Server) as s:
        s.body, s.etag, s.md5, s.ranges, s.refuse, s.cuts, s.asked, s.shift = (
            WHOLE,
            '"1"',
            None,
            True,
            0,
            [],
            [],
            0,
        )
        s.daemon_threads = True
        threading.Thread(target=s.serve_forever, daemon=True).start()
        s.url = f'http://127.0.0.1:{s.server_port}/w.pt'
        yield s
        s.shutdown()


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_whole(server, tmp_path):
    seen = []
    path = _download(
        server.url, tmp_path / 'a' / 'w.pt', callback=lambda done, total: seen.append((done, total))
    )
    assert path.read_bytes() == WHOLE and left(path.parent) == ['w.pt'] and server.asked == [None]
    assert seen[-1] == (len(WHOLE), len(WHOLE))
    assert _download(server.url, path) == path and len(server.asked) == 1


@pytest.mark.parametrize('etag', ['"1"', None])
def test_an_interrupted_download_goes_on(server, tmp_path, etag):
    server.etag, server.cuts = etag, [100_000, 50_000]
    with pytest.raises(ConnectionError, match=r'100,000 bytes are kept, call again to go on'):
        _download(server.url, tmp_path / 'w.pt', attempts=1)
    assert 'w.pt' not in left(tmp_path) and (tmp_path / 'w.pt.partial').stat().st_size == 100_000
    path = _download(server.url, tmp_path / 'w.pt', sha256=hashlib.sha256(WHOLE).hexdigest())
    assert path.read_bytes() == WHOLE and left(tmp_path) == ['w.pt']
    assert server.asked == [None, 'bytes=100000-', 'bytes=150000-']


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.ranges, server.cuts = False, [100_000]
    assert _download(server.url, tmp_path / 'w.pt').read_bytes() == WHOLE
    assert server.asked == [None, 'bytes=100000-'] and left(tmp_path) == ['w.pt']


def test_a_file_that_changed_in_between_is_not_mixed(server, tmp_path):
    server.cuts = [100_000]
    with pytest.raises(ConnectionError):
        _download(server.url, tmp_path / 'w.pt', attempts=1)
    server.body, server.etag = bytes(200_000), '"2"'
    assert _download(server.url, tmp_path / 'w.pt').read_bytes() == bytes(200_000)


def test_nothing_was_left_to_send(server, tmp_path):
    server.cuts = [100_000]
    with pytest.raises(ConnectionError):
        _download(server.url, tmp_path / 'w.pt', attempts=1)
    (tmp_path / 'w.pt.partial').write_bytes(WHOLE)  # killed between the last byte and the new name
    assert _download(server.url, tmp_path / 'w.pt').read_bytes() == WHOLE
    (tmp_path / 'w.pt').unlink()
    (tmp_path / 'w.pt.partial').write_bytes(WHOLE + b'more')  # of another file, without its notes
    assert _download(server.url, tmp_path / 'w.pt').read_bytes() == WHOLE


def test_too_long_a_rest_is_thrown_away(server, tmp_path):
    server.cuts = [100_000]
    with pytest.raises(ConnectionError):
        _download(server.url, tmp_path / 'w.pt', attempts=1)
    (tmp_path / 'w.pt.partial').write_bytes(WHOLE + b'more')
    assert _download(server.url, tmp_path / 'w.pt').read_bytes() == WHOLE


def test_another_part_than_asked_for_is_refused(server, tmp_path):
    server.cuts, server.shift = [100_000], 7
    with pytest.raises(
        ConnectionError, match='the server sent bytes 100007-.*asked for the bytes from 100000'
    ):
        _download(server.url, tmp_path / 'w.pt')


@pytest.mark.parametrize('kind', ['sha256', 'md5'])
def test_a_wrong_file_is_not_kept(server, tmp_path, kind):
    given = 'ab' * 32 if kind == 'sha256' else None
    if kind == 'md5':
        server.md5 = base64.b64encode(bytes(16)).decode()
    with pytest.raises(ValueError, match='is not what was expected: its hash is .*, expected (abab|0000)'):
        _download(server.url, tmp_path / 'w.pt', given)
    assert left(tmp_path) == []
    server.md5 = base64.b64encode(hashlib.md5(WHOLE).digest()).decode()
    server.cuts = [1000, 1000]
    good = hashlib.sha256(WHOLE).hexdigest()
    assert _download(server.url, tmp_path / 'w.pt', good[:9].upper() if kind == 'sha256' else None).exists()


@pytest.mark.parametrize('status', [403, 404, 500])
def test_refusals(server, tmp_path, status):
    server.refuse = status
    with pytest.raises(
        ConnectionError, match=f'could not be fetched .*{status}.*; or give the path of a file'
    ):
        _download(server.url, tmp_path / 'w.pt')
    assert left(tmp_path) == [] and len(server.asked) == 1


def test_offline(tmp_path):
    with pytest.raises(ConnectionError, match='could not be fetched'):
        _download('http://127.0.0.1:9/w', tmp_path / 'w')
    with pytest.raises(ConnectionError, match='could not be fetched'):
        _download('http://no-such-host.invalid/w', tmp_path / 'w')
    assert left(tmp_path) == []


def _rank(url, path):
    _download(url, path)


def test_ranks_wait_for_each_other(server, tmp_path):
    start = multiprocessing.get_context('fork')
    ranks = [start.Process(target=_rank, args=(server.url, tmp_path / 'w.pt')) for _ in range(4)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0] * 4 and server.asked == [None]
    assert (tmp_path / 'w.pt').read_bytes() == WHOLE and left(tmp_path) == ['w.pt']


def test_caches(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path / 'dnnlib'))
    path = _cached(server.url)
    assert path.read_bytes() == WHOLE and path.parent == tmp_path / 'hub' / 'checkpoints'
    assert _cached(server.url) == path and len(server.asked) == 1
    other = server.url + '?2'
    theirs = tmp_path / 'dnnlib' / 'downloads' / f'{hashlib.md5(other.encode()).hexdigest()}_w.pt'
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b'theirs')
    assert _cached(other) == theirs and len(server.asked) == 1
