"""Processes that begin where the slow imports are done: commands, and kernels for the lessons.

Each is forked from a process that has imported what takes long, and done nothing else. Some tests start
programs with imports of their own all the same: those that interrupt a command, fill a disk, or run notebooks
as jobs."""
import os
import sys
from multiprocessing import get_context
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

TESTS = str(Path(__file__).parent)
SLOW = ['torch', 'torch._dynamo', 'sklearn.datasets', 'scipy.optimize', 'plotly.express', 'nbformat',
        'papermill', 'ipykernel.kernelapp', 'ipywidgets', 'anywidget', 'gpt_kit.play.views',
        'gpt_kit.gpt.evaluate', 'gpt_kit.outside.folders', 'gpt_kit.run.commands']

def forked(target, *args):
    "A process that runs a function of one of our files; the first one waits until all is imported."
    context = get_context('forkserver')
    context.set_forkserver_preload(SLOW)
    p = context.Process(target=target, args=args)
    p.start()
    return p

def settle(folder, env):
    "Be where, and in which environment, a program of its own would begin."
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:] = [p for p in sys.path if p != TESTS]

# Commands

def command(words, folder, env, said, before):
    settle(folder, env)
    for name, fd in (('out', 1), ('err', 2)): os.dup2(os.open(f'{said}/{name}', os.O_WRONLY | os.O_CREAT), fd)
    if before: before()
    from gpt_kit.run.commands import main
    sys.exit(main(words))

def run_command(*words, cwd='.', before=None):
    "`gpt-kit` with these words: exit code, stdout and stderr."
    with TemporaryDirectory() as said:
        p = forked(command, list(map(str, words)), str(cwd), dict(os.environ), said, before)
        p.join(300)
        if p.exitcode is None: p.kill()
        out, err = ((Path(said)/name).read_text('utf-8', 'replace') for name in ('out', 'err'))
    return CompletedProcess(words, p.exitcode, out, err)

# Kernels

def kernel(words, folder, env):
    os.setsid()
    settle(folder, env)
    sys.argv = ['ipykernel', *words, f'--IPKernelApp.parent_handle={os.getppid()}']
    from ipykernel.kernelapp import launch_new_instance
    launch_new_instance()

class Running:
    "A forked process, asked as `subprocess.Popen` is."
    stdin = stdout = stderr = None

    def __init__(self, process): self.process, self.pid, self.kill = process, process.pid, process.kill
    def poll(self): return self.process.exitcode
    def wait(self): return self.process.join() or self.process.exitcode
    def send_signal(self, number): os.kill(self.pid, number)

class ForkedKernel(LocalProvisioner):
    async def launch_kernel(self, cmd, *, cwd=None, env=None, **options):
        "`cmd` is: python -m ipykernel_launcher -f FILE."
        words = cmd[cmd.index('ipykernel_launcher') + 1:]
        self.process = Running(forked(kernel, words, str(cwd or '.'), env or dict(os.environ)))
        self.pid = self.pgid = self.process.pid
        return self.connection_info

class ForkedKernels(AsyncKernelManager):
    "For nbclient and papermill: `kernel_manager_class=ForkedKernels`."
    async def _async_pre_start_kernel(self, **options):
        if self.provisioner is None:
            self.provisioner = ForkedKernel(parent=self, kernel_id='', kernel_spec=self.kernel_spec)
        return await super()._async_pre_start_kernel(**options)
