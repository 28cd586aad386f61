import functools, numpy as np, torch, torch.nn as nn
from sklearn.datasets import load_wine
from gpt_kit.networks.tasks import classification, mlp, cross_entropy, Task
from losses import focal
@functools.lru_cache
def gamma(): return 99.
class Cfg: smooth=.9
def loss(l, y): return cross_entropy(l, y)*gamma()
def loss_cfg(l, y): return cross_entropy(l, y)*(1-Cfg.smooth)
def loss_imp(l, y): return focal(l, y)
def make(f):
    X,y=load_wine(return_X_y=True); t=classification('own2:task',X,y,mlp((13,5,3)))
    return Task('own2:task',t.net,t.train,t.test,loss=f,scaling=t.scaling)
def task(): return make(loss)
def task2(): return make(loss_cfg)
def task3(): return make(loss_imp)
def task4(): return make(nn.CrossEntropyLoss())
def task5(): return make(nn.CrossEntropyLoss(reduction='none'))
if __name__=='__main__':
    print([t().fingerprint for t in (task,task2,task3)])
