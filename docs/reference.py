"""An exported cell as a page shows it: signatures, tables of parameters from docments, the source folded."""

import ast
import io
import re
import tokenize
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@cache
def offered() -> dict[tuple[str, str], str]:
    "Return {(module, name): full name} of what the doors offer; the front door counts first"
    names = {}
    for stub in [*sorted((ROOT / 'difflow').glob('*/__init__.pyi')), ROOT / 'difflow/__init__.pyi']:
        door = '.'.join(stub.parent.relative_to(ROOT).parts)
        for node in ast.parse(stub.read_text(encoding='utf-8')).body:
            if isinstance(node, ast.ImportFrom):
                names |= {(f'{door}.{node.module}', a.name): f'{door}.{a.name}' for a in node.names}
    return names


def comments(code: str) -> dict[int, str]:
    "Return the comment on every line that has one"
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return {t.start[0]: t.string.lstrip('# ') for t in tokens if t.type == tokenize.COMMENT}


def prose(text: str) -> str:
    "Return plain text as Markdown: what is not between backticks has no meaning beyond its letters"
    parts = re.split(r'(`[^`]*`)', ' '.join((text or '').split()))
    return ''.join(p if p[:1] == '`' else re.sub(r'([*_<$\\{\[|])', r'\\\1', p) for p in parts).replace(
        '`|`', '`\\|`'
    )


def in_cell(text: str) -> str:
    "Return code for a cell of a table"
    return f'`{text}`'.replace('|', '\\|') if text else ''


def parameters(node: ast.FunctionDef, notes: dict[int, str]) -> list[tuple[str, str, str, str]]:
    "Return (name, type, default, meaning) of every parameter but `self` and `cls`"
    spec, rows = node.args, []
    places = spec.posonlyargs + spec.args
    defaults = [None] * (len(places) - len(spec.defaults)) + spec.defaults
    listed = [('', a, d) for a, d in zip(places, defaults)]
    listed += [('*', spec.vararg, None)] if spec.vararg else []
    listed += [('', a, d) for a, d in zip(spec.kwonlyargs, spec.kw_defaults)]
    listed += [('**', spec.kwarg, None)] if spec.kwarg else []
    for stars, arg, default in listed:
        if arg.arg in ('self', 'cls') and not arg.annotation:
            continue
        text = lambda part: ast.unparse(part) if part is not None else ''
        end = (default or arg.annotation or arg).end_lineno
        rows.append((stars + arg.arg, text(arg.annotation).strip('\'"'), text(default), notes.get(end, '')))
    return rows


def table(rows: list[tuple[str, str, str, str]], returned: tuple[str, str]) -> list[str]:
    "Return the lines of the table of parameters, and of what is returned"
    if any(returned) and returned[0] != 'None':
        rows = [*rows, ('*returns*', returned[0], '', returned[1])]
    if not rows:
        return []
    columns = ['name', 'type', 'default'] if any(row[2] for row in rows) else ['name', 'type']
    lines = ['| ' + ' | '.join([*columns, '']) + ' |', '|---' * (len(columns) + 1) + '|']
    for name, kind, default, meaning in rows:
        parts = [name if name == '*returns*' else in_cell(name), in_cell(kind), in_cell(default)]
        lines.append('| ' + ' | '.join([*parts[: len(columns)], prose(meaning)]) + ' |')
    return ['', *lines, '']


def signature(node: ast.FunctionDef | None) -> str:
    "Return the parameters of a function with their defaults, without types"
    if node is None:
        return '()'
    bare = ast.parse(ast.unparse(node)).body[0]
    for arg in ast.walk(bare.args):
        if isinstance(arg, ast.arg):
            arg.annotation = None
    short = lambda default: (
        default if default is None or len(ast.unparse(default)) < 24 else ast.Constant(...)
    )
    bare.args.defaults = list(map(short, bare.args.defaults))
    bare.args.kw_defaults = list(map(short, bare.args.kw_defaults))
    bare.args.args = [a for a in bare.args.args if a.arg not in ('self', 'cls')]
    return f'({ast.unparse(bare.args)})'


def described(
    node: ast.FunctionDef | ast.ClassDef, name: str, notes: dict, kind: str = 'function'
) -> list[str]:
    "Return the lines that describe a function, or a class with its public methods"
    body, fence = [prose(ast.get_docstring(node))], '`' * (4 if kind == 'class' else 3)
    if isinstance(node, ast.ClassDef):
        methods = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
        first, fence = methods.get('__init__'), '`' * 5
        fields = [
            (
                n.target.id,
                ast.unparse(n.annotation),
                ast.unparse(n.value) if n.value else '',
                notes.get(n.end_lineno, ''),
            )
            for n in node.body
            if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name) and n.target.id[0] != '_'
        ]
        head = signature(first) if first else f'({", ".join(f[0] for f in fields)})' if fields else ''
        body += table(parameters(first, notes) if first else fields, ('', ''))
        for method in methods.values():
            if method.name[0] != '_' and ast.get_docstring(method):
                decorators = {ast.unparse(d) for d in method.decorator_list}
                how = 'property' if 'property' in decorators else 'method'
                body += ['', *described(method, method.name, notes, how)]
    else:
        head = '' if kind == 'property' else signature(node)
        end = node.returns.end_lineno if node.returns else 0
        rows = parameters(node, notes)
        note = notes.get(end, '') if all(note != notes.get(end) for *_, note in rows) else ''
        returned = (ast.unparse(node.returns).strip('\'"'), note) if node.returns else ('', '')
        body += table(rows, returned) if any(row[3] for row in rows) or note or len(rows) > 1 else []
    return [f'{fence}{{py:{kind}}} {name}{head}', *body, fence]


def reference(code: str, module: str) -> str:
    "Return an exported cell as Markdown: what is public, then the source, folded"
    nodes, notes, lines = ast.parse(code).body, comments(code), []
    made = [n for n in nodes if not isinstance(n, (ast.Import, ast.ImportFrom))]
    if not made:
        return ''
    names = []
    for node in made:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append(node.name)
            if node.name[0] != '_':
                full = offered().get((module, node.name), f'{module}.{node.name}')
                kind = 'class' if isinstance(node, ast.ClassDef) else 'function'
                lines += [*described(node, full, notes, kind), '']
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            assigned = [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
            names += assigned
            for name in assigned:
                if (full := offered().get((module, name))) is not None:
                    lines += [f'```{{py:data}} {full}', prose(notes.get(node.end_lineno, '')), '```', '']
    text = re.sub(r'^#\|.*\n', '', code, flags=re.M).strip('\n')
    summary = ', '.join(f'<code>{name}</code>' for name in names) or 'of this cell'
    lines += [
        f'<details class="source"><summary>Source {summary}</summary>',
        '',
        '```````python',
        text,
        '```````',
        '',
    ]
    return '\n'.join([*lines, '</details>'])
