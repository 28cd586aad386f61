"Model files with other metadata, other tensors, or code to run; and networks to start from."
import json
from pathlib import Path

import torch
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from . import fixtures
from .commands import SHORT, option_words
from .fixtures import put
from .harness import Case
from .stores import DROP, ODD, TEXT, changed, damage, paths_in

PROMPT = 'prompt', 'm.safetensors', '2', '--out', 'o.safetensors', *option_words(SHORT['prompt'])
EVALUATE = 'evaluate', 'm.safetensors', *option_words(SHORT['evaluate'])
TASKS = ['os:abort', 'os:getpid', 'trap:task', 'trap:nothing', 'posix:abort', 'trap', '', 'nowhere:task', ':',
         'digits-3', 'digits-cnn', 'digits-999999999', 'builtins:exit', 'sys:exit', 'antigravity:x', 'this:d',
         'trap.x:y', '__main__:main', 'ü:ü', 'digits-2 ', '../trap:task']
TRAP = "open('EXPLODED', 'w').write('a module that came with a file was run')\ndef task(): pass\n"


def model():
    "(tensors, info) of the small model."
    file = fixtures.FOLDER/'m.safetensors'
    with safe_open(file, 'pt') as f: return load_file(file), json.loads(f.metadata()['gpt_kit'])


def put_model(folder, tensors, info):
    put(folder, 'net.safetensors', 'net.pt')
    (folder/'trap.py').write_text(TRAP)
    text = info if isinstance(info, str) else json.dumps(info)
    tensors = {n: t.contiguous() for n, t in tensors.items()}
    (folder/'m.safetensors').write_bytes(save(tensors, {'gpt_kit': text}))


def same_answer(folder, said):
    "The network that came is what the unchanged model gives."
    found, wanted = load_file(folder/'o.safetensors'), KNOWN['answer']
    assert found.keys() == wanted.keys()
    for n, t in wanted.items(): assert torch.equal(found[n], t), f"{n} of the answer is another"


KNOWN = {}


def ask_once():
    "The answer of the unchanged model."
    import os
    from contextlib import chdir
    from tempfile import TemporaryDirectory

    from .harness import command_here
    with TemporaryDirectory() as tmp, chdir(tmp):
        put(Path(tmp), 'm.safetensors')
        code, out, err = command_here(PROMPT)
        assert code == 0 and os.path.exists('o.safetensors'), err
        KNOWN['answer'] = load_file('o.safetensors')


@st.composite
def odd_metadata(draw, known):
    "One place of what a file says about itself is something else."
    tensors, info = known
    at = draw(st.sampled_from(list(paths_in(info))))
    new = draw(st.sampled_from([DROP, TEXT, *ODD]))
    def lay(folder): put_model(folder, tensors, changed(info, at, new))
    return Case(f"metadata: {'.'.join(map(str, at))}", lay, PROMPT, 'right sentence', same_or_no_nan(at),
                ('o.safetensors',))


MAY_BE = {'scale', 'calibration', 'schedule', 'best', 'metric_scale', 'octaves', 'step_scale', 'start_gain'}


def same_or_no_nan(at):
    "What is asked for is what comes, unless that place is what a person may well choose."
    def check(folder, said):
        if set(at) & MAY_BE:
            assert all(t.isfinite().all() for t in load_file(folder/'o.safetensors').values())
        else: same_answer(folder, said)
    return check


@st.composite
def odd_task(draw, known):
    "A file that names code."
    tensors, info = known
    name = draw(st.sampled_from(TASKS))
    words = draw(st.sampled_from([PROMPT, EVALUATE]))
    def lay(folder): put_model(folder, tensors, dict(info, task=name))
    return Case(f'a file with task {name!r}', lay, words, 'sentence')


@st.composite
def odd_text(draw, known):
    "Metadata that are no JSON, or none at all; a file that is damaged."
    tensors, info = known
    text = draw(st.sampled_from(['', '[]', 'null', '3', '{}', '{"version": 2}', 'NaN', '[' * 5000,
                                 '{"version": 2, "kind": "model"}', '{"version": "2"}', '"x"',
                                 '{"version": [2]}',
                                 '{"version": 2, "kind": "model", "config": {}}']))
    how = draw(st.sampled_from([None, None, 'cut', 'longer', 'empty', 'text', 'header', 'zeros', 'folder']))
    at = draw(st.floats(0, .5))
    def lay(folder):
        put_model(folder, tensors, text if how is None else info)
        file = folder/'m.safetensors'
        if how == 'folder':
            file.unlink()
            file.mkdir()
        elif how == 'zeros': file.write_bytes(damage(file.read_bytes(), how, at/100))       # in its header
        elif how: file.write_bytes(damage(file.read_bytes(), how, at))
    return Case(f'metadata {text!r}' if how is None else f'a model file: {how}', lay, PROMPT, 'sentence')


@st.composite
def odd_tensors(draw, known):
    "A tensor is missing, too many, of another shape or type, or not finite."
    tensors, info = dict(known[0]), known[1]
    name = draw(st.sampled_from(sorted(tensors)))
    how = draw(st.sampled_from(['gone', 'more', 'shape', 'flat', 'nan', 'inf', 'int', 'bool', 'double',
                                'renamed']))
    t, ends = tensors[name], 'sentence'
    if how == 'gone' or how == 'renamed': del tensors[name]
    if how == 'renamed': tensors[name + 'x'] = t
    if how == 'more': tensors['more.weight'] = torch.ones(2)
    if how == 'shape': tensors[name] = torch.ones(*t.shape, 2, dtype=t.dtype)
    if how == 'flat': tensors[name] = t.reshape(1, -1)
    if how in ('nan', 'inf'): tensors[name] = torch.full_like(t.float(), float(how))
    if how in ('int', 'bool'): tensors[name] = t.to(dict(int=torch.int64, bool=torch.bool)[how])
    if how == 'double': tensors[name] = t.double()
    if how in ('double', 'flat'): ends = 'right' if tensors[name].shape == t.shape else 'sentence'
    if how in ('int', 'bool', 'inf'): ends = 'right sentence'
    def check(folder, said):
        if how in ('double', 'flat'): same_answer(folder, said)
        assert all(t.isfinite().all() for t in load_file(folder/'o.safetensors').values())
    def lay(folder): put_model(folder, tensors, info)
    return Case(f'tensor {name}: {how}', lay, PROMPT, ends, check, ('o.safetensors',))


STARTS = [
    'prefix', 'nested', 'half', 'bfloat16', 'double', 'strided', 'grad', 'more', 'gone', 'nan', 'inf',
    'sparse', 'complex', 'int', 'shape', 'list', 'module', 'numbers', 'text', 'empty', 'keys',
    'cut']


def odd_state(how, state):
    "A network's state_dict as others save it, or spoilt."
    if how == 'prefix': return {f'net.{n}': t for n, t in state.items()}
    if how == 'nested': return {'model_state_dict': state, 'epoch': 3}
    if how in ('half', 'bfloat16', 'double'): return {n: getattr(t, how)() for n, t in state.items()}
    if how == 'strided': return {n: t.t().contiguous().t() if t.ndim == 2 else t for n, t in state.items()}
    if how == 'grad': return {n: torch.nn.Parameter(t) for n, t in state.items()}
    if how == 'more': return dict(state, extra=torch.ones(3))
    if how == 'gone': return dict(list(state.items())[:-1])
    if how in ('nan', 'inf'): return {n: torch.full_like(t, float(how)) for n, t in state.items()}
    if how == 'sparse': return {n: t.to_sparse() for n, t in state.items()}
    if how == 'complex': return {n: t*(1 + 1j) for n, t in state.items()}
    if how == 'int': return {n: (9*t).int() for n, t in state.items()}
    if how == 'shape': return {n: t[..., None] for n, t in state.items()}
    if how == 'keys': return dict(enumerate(state.values()))
    others = dict(list=[*state.values()], module=torch.nn.Linear(2, 2), numbers={'a': 1}, text='x', empty={})
    return others.get(how, state)


@st.composite
def odd_start(draw):
    "A network to start from."
    how, suffix = draw(st.sampled_from(STARTS)), draw(st.sampled_from(['.pt', '.pth', '.PT']))
    same = how in ('prefix', 'nested', 'strided', 'grad', 'double')
    ends = 'right' if same or how in ('half', 'bfloat16') else 'sentence'
    if how in ('more', 'int'): ends = 'right sentence'
    state = load_file(fixtures.FOLDER/'net.safetensors')
    def lay(folder):
        put(folder, 'm.safetensors')
        torch.save(odd_state(how, state), folder/f's{suffix}')
        if how == 'cut': (folder/f's{suffix}').write_bytes((folder/f's{suffix}').read_bytes()[:-99])
    def check(folder, said):
        found = load_file(folder/'o.safetensors')
        assert all(t.isfinite().all() for t in found.values())
        if same: assert all(torch.equal(t, KNOWN['from net'][n]) for n, t in found.items()), 'another answer'
    words = (*PROMPT, '--start', f's{suffix}')
    return Case(f'a start: {how}', lay, words, ends, check, ('o.safetensors',))


def ask_from_net():
    "The answer from the stored network."
    from contextlib import chdir
    from tempfile import TemporaryDirectory

    from .harness import command_here
    with TemporaryDirectory() as tmp, chdir(tmp):
        put(Path(tmp), 'm.safetensors', 'net.pt')
        code, out, err = command_here((*PROMPT, '--start', 'net.pt'))
        assert code == 0, err
        KNOWN['from net'] = load_file('o.safetensors')


@st.composite
def odd_state_of_training(draw):
    "A training's state that was cut, altered or is another's: what to delete is said, and it stays as it is."
    how = draw(st.sampled_from(['cut', 'empty', 'text', 'header', 'another', 'bare', 'gone']))
    at = draw(st.floats(0, .9))
    def lay(folder):
        put(folder, 'store', 'm.safetensors')
        file = folder/'o.training.safetensors'
        data = (folder/'m.safetensors').read_bytes()
        if how == 'bare': save_file(dict(a=torch.zeros(2)), file)
        elif how == 'another': file.write_bytes(data)
        elif how != 'gone': file.write_bytes(damage(data, how, at))
    words = ('train', 'store', 'o.safetensors', *option_words(SHORT['train']))
    ends = 'right' if how == 'gone' else 'sentence'
    makes = ('o.safetensors',) if how == 'gone' else ()
    return Case(f'state of a training: {how}', lay, words, ends, outputs=makes)


def models():
    "Any of them."
    if not KNOWN:
        ask_once()
        ask_from_net()
    known = model()
    return st.one_of(odd_metadata(known), odd_metadata(known), odd_task(known), odd_text(known),
                     odd_tensors(known), odd_start(), odd_state_of_training())
