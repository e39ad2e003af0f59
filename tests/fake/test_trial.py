import time, pytest
from .conftest import Bench
W=[]
for ph in "spawn config load profile kv_cache graphs warmup serving".split():
    for how in "oom crash sigkill exit0".split():
        W.append((ph,how,"cpu"))
for ph in "load profile graphs warmup serving".split():
    W.append((ph,"oom","cuda"))
for ph in "load serving".split():
    for how in ("sigkill_engine","segv"):
        W.append((ph,how,"cpu"))
@pytest.mark.parametrize("ph,how,dev", W)
def test_x(bench, ph, how, dev, scratch, nothing_open):
    t=time.monotonic()
    tr = bench.trial({"die_at": ph, "how": how, "device": dev, "after":3})
    o=tr.outcome
    print("RES", ph, how, dev, round(time.monotonic()-t,2), o.kind, o.cause, getattr(o,'phase',None), getattr(o,'reason',None)[:100], getattr(o,'exit_code',None), getattr(o, "evidence",None) )
