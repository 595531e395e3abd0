"""Tensors, modules, optimizers and all that hangs on them, in a fresh process."""

from __future__ import annotations

import pytest

from tests.snapshot.fidelity import Case, RoundTrip

TRAINING = [
    Case(
        "optimizer_state_by_parameter",
        "import torch\nto_m = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))\n"
        "to = torch.optim.AdamW([{'params': to_m[0].parameters(), 'lr': 0.5}, {'params': to_m[2].parameters()}], lr=0.1)\n"
        "to_s = torch.optim.lr_scheduler.StepLR(to, 1, gamma=0.5)\n"
        "def to_step():\n    to.zero_grad(); to_m(to_x).square().sum().backward(); to.step(); to_s.step()\n"
        "torch.manual_seed(0); to_x = torch.randn(4, 2); to_step()\n"
        "import copy as to_c\nto_saved = {k: v.clone() for k, v in to_m.state_dict().items()}",
        "assert to.param_groups[0]['params'][0] is to_m[0].weight and set(map(id, to.state)) <= set(map(id, to_m.parameters()))\n"
        "assert to.state[to_m[0].weight]['exp_avg'].shape == (3, 2) and to.state[to_m[0].weight]['step'] == 1\n"
        "assert to_s.optimizer is to and to_s.get_last_lr() == [0.25, 0.05] and to_m[1].num_batches_tracked == 1\n"
        "assert all((to_saved[k] == v).all() for k, v in to_m.state_dict().items())\n"
        "to_w = to_m[0].weight.detach().clone(); to_step()\n"
        "assert not (to_m[0].weight == to_w).all() and to.state[to_m[0].weight]['step'] == 2 and to.param_groups[0]['lr'] == 0.125",
    ),
    Case(
        "training_goes_on_bit_for_bit",
        "import torch\ntorch.manual_seed(3)\ntb_m = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)); tb_o = torch.optim.SGD(tb_m.parameters(), 0.1, momentum=0.9, nesterov=True)\n"
        "def tb_step():\n    tb_o.zero_grad(); tb_l = tb_m(torch.randn(5, 3)).square().mean(); tb_l.backward(); tb_o.step(); return tb_l.item()\n"
        "tb_step(); tb_r = torch.get_rng_state()\n"
        "import copy as tb_c\ntb_twin = tb_c.deepcopy((tb_m.state_dict(), tb_o.state_dict())); tb_next = [tb_step() for _ in range(3)]\n"
        "tb_m.load_state_dict(tb_twin[0]); tb_o.load_state_dict(tb_twin[1])",
        "torch.set_rng_state(tb_r); assert [tb_step() for _ in range(3)] == tb_next",
    ),
    Case(
        "schedulers",
        "import torch\nsc_p = torch.nn.Parameter(torch.ones(1)); sc_o = torch.optim.SGD([sc_p], lr=1.0)\n"
        "sc_k = 0.5; sc_l = torch.optim.lr_scheduler.LambdaLR(sc_o, lambda e: sc_k ** e)\n"
        "sc_p2 = torch.nn.Parameter(torch.ones(1)); sc_o2 = torch.optim.SGD([sc_p2], lr=1.0)\n"
        "sc_q = torch.optim.lr_scheduler.SequentialLR(sc_o2, [torch.optim.lr_scheduler.ConstantLR(sc_o2, 0.1), torch.optim.lr_scheduler.CosineAnnealingLR(sc_o2, 10)], [2])\n"
        "sc_r = torch.optim.lr_scheduler.ReduceLROnPlateau(torch.optim.SGD([sc_p], lr=1.0), patience=0)\nsc_r.step(1.0)",
        "import warnings\nwith warnings.catch_warnings():\n    warnings.simplefilter('ignore'); sc_k = 0.25; sc_l.step(); sc_q.step()\nassert sc_o.param_groups[0]['lr'] == 0.25 and sc_l.optimizer is sc_o and sc_q._schedulers[1].optimizer is sc_o2\n"
        "sc_r.step(2.0); assert sc_r.optimizer.param_groups[0]['lr'] == 0.1",
    ),
    Case(
        "scheduler_counts_the_optimizers_steps",
        "import torch\nsw_o = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0); sw_s = torch.optim.lr_scheduler.StepLR(sw_o, 1); sw_o.step(); sw_s.step()",
        "import warnings\nwith warnings.catch_warnings():\n    warnings.simplefilter('error'); sw_o.step(); sw_s.step()\nassert abs(sw_o.param_groups[0]['lr'] - 0.01) < 1e-9",
    ),
    Case(
        "optimizer_hooks",
        "import torch\noh_p = torch.nn.Parameter(torch.ones(1)); oh = torch.optim.SGD([oh_p], lr=1.0); oh_n = []\noh_h = oh.register_step_post_hook(lambda o, a, k: oh_n.append(o)); oh.register_step_pre_hook(lambda o, a, k: oh_n.append('pre'))",
        "oh.step(); assert oh_n == ['pre', oh]; oh_h.remove(); oh.step(); assert oh_n == ['pre', oh, 'pre']",
    ),
    Case(
        "all_optimizers",
        "import torch\nao_p = torch.nn.Parameter(torch.ones(2, 2)); ao_p.grad = torch.ones(2, 2)\n"
        "ao = [c([ao_p]) for c in (torch.optim.Adam, torch.optim.Adagrad, torch.optim.RMSprop, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adadelta, torch.optim.Adamax, torch.optim.Rprop, torch.optim.ASGD, torch.optim.LBFGS)]\n"
        "for ao_o in ao[:-1]: ao_o.step()",
        "assert all(o.param_groups[0]['params'][0] is ao_p and (ao_p in o.state or o is ao[-1]) for o in ao)\nfor ao_o in ao[:-1]: ao_o.step()\nao[-1].step(lambda: ao_p.sum())",
    ),
    Case(
        "grad_scaler",
        "import torch\ngsc = torch.amp.GradScaler('cpu', init_scale=8.0); gsc_p = torch.nn.Parameter(torch.ones(1)); gsc_o = torch.optim.SGD([gsc_p], lr=1.0)\ngsc.scale((gsc_p * 2).sum()).backward(); gsc.step(gsc_o); gsc.update()",
        "assert gsc.get_scale() == 8.0; gsc_o.zero_grad(); gsc.scale((gsc_p * 2).sum()).backward(); gsc.step(gsc_o); gsc.update(); assert gsc_p.item() == -3.0",
    ),
    Case(
        "averaged_model",
        "import torch, copy\nem_m = torch.nn.Linear(2, 2); em = torch.optim.swa_utils.AveragedModel(em_m, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)); em.update_parameters(em_m)\n"
        "em_d = torch.optim.swa_utils.AveragedModel(em_m, avg_fn=lambda a, m, n: em_k * a + (1 - em_k) * m); em_d.update_parameters(em_m); em_k = 0.5\n"
        "class EMA:\n    def __init__(self, m): self.model = m; self.shadow = {k: v.detach().clone() for k, v in m.named_parameters()}\n    def update(self):\n        for k, v in self.model.named_parameters(): self.shadow[k].mul_(.5).add_(v.detach(), alpha=.5)\nem_e = EMA(em_m)",
        "assert em.n_averaged == 1 and em.module.weight.data_ptr() != em_m.weight.data_ptr() and em_e.model is em_m\n"
        "with torch.no_grad(): em_m.weight.fill_(0)\nem_w = em.module.weight.clone(); em.update_parameters(em_m); em_d.update_parameters(em_m); em_e.update(); assert torch.allclose(em.module.weight, em_w / 2) and torch.allclose(em_d.module.weight, em_w / 2) and torch.allclose(em_e.shadow['weight'], em_w / 2)",
    ),
    Case(
        "data_loader_and_its_generator",
        "import torch\nclass DLS(torch.utils.data.Dataset):\n    def __init__(self): self.x = torch.arange(10.0)\n    def __len__(self): return 10\n    def __getitem__(self, i): return self.x[i] * dls_k\n"
        "dls_k = 1; dls_g = torch.Generator().manual_seed(5); dls_d = DLS(); dls = torch.utils.data.DataLoader(dls_d, batch_size=4, shuffle=True, generator=dls_g, collate_fn=lambda b: torch.stack(b))\nlist(dls); dls_s = dls_g.get_state().clone(); dls_n = [b.tolist() for b in dls]; dls_g.set_state(dls_s)\n"
        "dls_w = torch.utils.data.DataLoader(torch.utils.data.Subset(dls_d, [1, 3]), sampler=torch.utils.data.WeightedRandomSampler([1.0, 1.0], 4, generator=dls_g)); dls_sp = torch.utils.data.random_split(dls_d, [7, 3], generator=dls_g)\ndls_g.set_state(dls_s)",
        "assert dls.generator is dls_g is dls.sampler.generator is dls_w.sampler.generator and dls.dataset is dls_d is dls_w.dataset.dataset is dls_sp[0].dataset\n"
        "assert [b.tolist() for b in dls] == dls_n; dls_k = 10; assert sum(b.sum().item() for b in dls) == 450 and len(list(dls_w)) == 4",
    ),
]

MODULES = [
    Case(
        "module_of_the_notebook",
        "import torch\nclass MN(torch.nn.Module):\n    def __init__(self, depth=2):\n        super().__init__(); self.layers = torch.nn.ModuleList(torch.nn.Linear(3, 3) for _ in range(depth)); self.tied = self.layers[0]; self.register_buffer('b', torch.ones(3)); self.register_buffer('t', torch.zeros(1), persistent=False); self.p = torch.nn.ParameterDict({'q': torch.nn.Parameter(torch.ones(1))}); self.act = torch.nn.functional.relu; self.extra = {'x': self.b}\n"
        "    def forward(self, x):\n        for l in self.layers: x = self.act(l(x))\n        return x * mn_k + self.b\nmn_k = 0.0; mn = MN(); mn_b = mn.b; mn_l = mn.layers; mn.eval(); mn_w = mn.layers[0].weight",
        "assert mn(torch.ones(1, 3)).tolist() == [[1, 1, 1]] and mn.b is mn_b is mn.extra['x'] and mn.layers is mn_l and mn.tied is mn.layers[0] and mn.tied.weight is mn_w and not mn.training\n"
        "assert 't' not in mn.state_dict() and 'p.q' in mn.state_dict() and len(list(mn.parameters())) == 5 and type(mn) is MN; mn.to(torch.float64); assert mn_w.dtype == torch.float64 and MN(1)(torch.zeros(1, 3)).shape == (1, 3)",
    ),
    Case(
        "tied_weights",
        "import torch\nclass TW(torch.nn.Module):\n    def __init__(self):\n        super().__init__(); self.e = torch.nn.Embedding(5, 3); self.o = torch.nn.Linear(3, 5, bias=False); self.o.weight = self.e.weight\ntw = TW(); tw_o = torch.optim.Adam(tw.parameters()); tw_v = tw.e.weight.data[1]",
        "assert tw.e.weight is tw.o.weight is tw_o.param_groups[0]['params'][0] and len(list(tw.parameters())) == 1\nwith torch.no_grad(): tw.e.weight[1] = 7\nassert tw_v.tolist() == [7, 7, 7] and tw.o.weight[1, 0] == 7",
    ),
    Case(
        "module_hooks",
        "import torch\nmh_m = torch.nn.Linear(2, 2); mh_n = []\ndef mh_f(m, i, o): mh_n.append(('f', m)); return o * 0 + mh_k\nmh_k = 1\n"
        "mh_h = mh_m.register_forward_hook(mh_f); mh_p = mh_m.register_forward_pre_hook(lambda m, a: mh_n.append('pre')); mh_b = mh_m.register_full_backward_hook(lambda m, gi, go: mh_n.append('b')); mh_s = mh_m.register_state_dict_post_hook(lambda m, d, p, l: mh_n.append('sd'))\n"
        "class MHC(torch.nn.Module):\n    def __init__(self): super().__init__(); self.l = torch.nn.Linear(2, 2); self.seen = []; self.l.register_forward_hook(self.see)\n    def see(self, m, i, o): self.seen.append(o.shape)\n    def forward(self, x): return self.l(x)\nmhc = MHC()",
        "mh_k = 5; mh_y = mh_m(torch.ones(1, 2)); assert mh_y.tolist() == [[5, 5]] and mh_n == ['pre', ('f', mh_m)]; mh_y.sum().backward(); mh_m.state_dict(); assert mh_n[2:] == ['b', 'sd']\n"
        "mh_h.remove(); mh_p.remove(); mh_b.remove(); mh_s.remove(); mh_n.clear(); mh_m(torch.ones(1, 2)); mh_m.state_dict(); assert mh_n == []\nmhc(torch.ones(1, 2)); assert mhc.seen == [(1, 2)]",
    ),
    Case(
        "tensor_hooks",
        "import torch\nth = torch.nn.Parameter(torch.ones(2)); th_n = []; th_h = th.register_hook(lambda g: g * th_k); th_k = 1; th_a = th.register_post_accumulate_grad_hook(lambda p: th_n.append(p))\nth_r = torch.ones(1, requires_grad=True); th_r.register_hook(lambda g: th_n.append('r'))",
        "th_k = 3; th.sum().backward(); assert th.grad.tolist() == [3, 3] and th_n[0] is th; th_r.sum().backward(); assert th_n[1] == 'r'\nth_h.remove(); th_a.remove(); th.grad = None; th.sum().backward(); assert th.grad.tolist() == [1, 1] and len(th_n) == 2",
    ),
    Case(
        "parametrizations_and_norms",
        "import torch\nclass PZ(torch.nn.Module):\n    def forward(self, w): return w.triu() * pz_k\npz_k = 1.0; pz = torch.nn.Linear(3, 3); torch.nn.utils.parametrize.register_parametrization(pz, 'weight', PZ()); pz_o = torch.optim.SGD(pz.parameters(), 0.1)\n"
        "pzw = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 2)); pzs = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(2, 2))\npzo = torch.nn.utils.parametrizations.orthogonal(torch.nn.Linear(2, 2)); pz_w = pz.parametrizations.weight.original; pzw_w = pzw.weight.detach().clone()\n"
        "import warnings\nwith warnings.catch_warnings():\n    warnings.simplefilter('ignore'); pzl = torch.nn.utils.weight_norm(torch.nn.Linear(2, 2))",
        "assert pz.weight[2, 0] == 0 and pz.parametrizations.weight.original is pz_w and any(p is pz_w for p in pz_o.param_groups[0]['params']); pz_k = 2.0; assert torch.allclose(pz.weight, pz_w.triu() * 2) and torch.nn.utils.parametrize.is_parametrized(pz)\n"
        "assert isinstance(pz, torch.nn.Linear) and torch.allclose(pzw.weight, pzw_w); pzs(torch.ones(1, 2)); assert torch.allclose(pzo.weight @ pzo.weight.t(), torch.eye(2), atol=1e-5); pzl(torch.ones(1, 2)).sum().backward(); assert pzl.weight_g.grad is not None\n"
        "torch.nn.utils.parametrize.remove_parametrizations(pz, 'weight'); assert type(pz) is torch.nn.Linear",
    ),
    Case(
        "pruned",
        "import torch, torch.nn.utils.prune\npr = torch.nn.Linear(4, 4); torch.nn.utils.prune.l1_unstructured(pr, 'weight', 0.5)",
        "assert (pr.weight == 0).sum() == 8 and (pr(torch.ones(1, 4)) is not None); torch.nn.utils.prune.remove(pr, 'weight'); assert 'weight' in dict(pr.named_parameters())",
    ),
    Case(
        "compiled_module",
        "import torch\ncm_m = torch.nn.Linear(2, 2); cm = torch.compile(cm_m, backend='eager'); cm_y = cm(torch.ones(1, 2)).detach()\ncm_i = torch.nn.Linear(2, 2); cm_i.compile(backend='eager'); cm_i(torch.ones(1, 2)); cm_iy = cm_i(torch.ones(1, 2)).detach()\n@torch.compile(backend='eager')\ndef cm_f(x): return x * cm_k\ncm_k = 2.0; cm_f(torch.ones(2)); cm_opt = torch.optim.SGD(cm.parameters(), 0.1)",
        "assert cm._orig_mod is cm_m and isinstance(cm, torch._dynamo.eval_frame.OptimizedModule) and torch.equal(cm(torch.ones(1, 2)).detach(), cm_y) and cm_opt.param_groups[0]['params'][0] is cm_m.weight\n"
        "with torch.no_grad(): cm_m.weight.zero_(); cm_m.bias.fill_(3)\nassert cm(torch.ones(1, 2)).tolist() == [[3, 3]] and torch.equal(cm_i(torch.ones(1, 2)).detach(), cm_iy)\ncm_k = 5.0; assert cm_f(torch.ones(2)).tolist() == [5, 5] and callable(cm_f)\nassert hasattr(cm_f, '_torchdynamo_orig_callable')",
    ),
    Case(
        "scripted_and_traced_modules",
        "import torch\njs_m = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())\nimport warnings\nwith warnings.catch_warnings():\n    warnings.simplefilter('ignore'); js_t = torch.jit.trace(js_m, torch.ones(1, 2)); js_s = torch.jit.script(torch.nn.Linear(2, 2))\njs_y = js_t(torch.ones(1, 2)).detach(); js_a = js_t; js_sw = js_s.weight.detach().clone()",
        "import warnings\nassert js_t is js_a and torch.equal(js_t(torch.ones(1, 2)).detach(), js_y) and torch.equal(js_s.weight.detach(), js_sw) and isinstance(js_s, torch.jit.ScriptModule)",
    ),
    Case(
        "lazy_and_quantized_modules",
        "import torch\nlz = torch.nn.LazyLinear(3); lz_q = torch.nn.Linear(2, 2)\nimport warnings\nwith warnings.catch_warnings():\n    warnings.simplefilter('ignore'); lz_d = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(lz_q), {torch.nn.Linear}); lz_y = lz_d(torch.ones(1, 2))",
        "assert torch.equal(lz_d(torch.ones(1, 2)), lz_y); lz(torch.ones(1, 5)); assert lz.weight.shape == (3, 5)",
    ),
    Case(
        "fx_graph_module",
        "import torch, torch.fx\nfx_m = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()); fx = torch.fx.symbolic_trace(fx_m); fx_y = fx(torch.ones(1, 2)).detach()",
        "assert torch.equal(fx(torch.ones(1, 2)).detach(), fx_y) and getattr(fx, '0').weight is fx_m[0].weight and len(fx.graph.nodes) == 4",
    ),
    Case(
        "distributed_in_one_process",
        "import torch, torch.distributed as ddp_d\nddp_d.init_process_group('gloo', store=ddp_d.HashStore(), rank=0, world_size=1)\nddp_m = torch.nn.Linear(2, 2); ddp = torch.nn.parallel.DistributedDataParallel(ddp_m, gradient_as_bucket_view=True); ddp_o = torch.optim.SGD(ddp.parameters(), 0.1); ddp(torch.ones(1, 2)).sum().backward(); ddp_o.step(); ddp.eval(); ddp_d.destroy_process_group()",
        "assert ddp.module is ddp_m and type(ddp) is torch.nn.parallel.DistributedDataParallel and not ddp.training and ddp_o.param_groups[0]['params'][0] is ddp_m.weight\nddp_o.zero_grad(); ddp(torch.ones(1, 2)).sum().backward(); assert ddp_m.weight.grad.tolist() == [[1, 1], [1, 1]] and ddp.gradient_as_bucket_view; ddp_d.destroy_process_group()",
    ),
    Case(
        "autograd_functions",
        "import torch\nclass AFN(torch.autograd.Function):\n    @staticmethod\n    def forward(ctx, x): ctx.save_for_backward(x); return x * 2\n    @staticmethod\n    def backward(ctx, g): return g * afn_k\nafn_k = 1; afn = AFN.apply",
        "afn_k = 7; afn_x = torch.ones(1, requires_grad=True); AFN.apply(afn_x).backward(); assert afn_x.grad.item() == 7; afn_x.grad = None; afn(afn_x).backward(); assert afn_x.grad.item() == 7",
    ),
]

TENSORS = [
    Case(
        "gradients_of_all_sorts",
        "import torch\nga = torch.ones(3, requires_grad=True); ga.grad = torch.full((3,), 2.0); ga_g = ga.grad; ga_v = ga.grad[1:]; gb = torch.nn.Parameter(torch.ones(2)); gb.grad = torch.zeros(2); gb.requires_grad_(False); gc_e = torch.nn.Embedding(5, 2, sparse=True); gc_e(torch.tensor([1])).sum().backward()\n"
        "gd = torch.ones(1, requires_grad=True); gd_l = (gd ** 2).sum(); gd_l.backward(create_graph=True)",
        "assert ga.grad is ga_g; ga_v[0] = 9; assert ga.grad.tolist() == [2, 9, 2] and gb.grad.tolist() == [0, 0] and not gb.requires_grad and gc_e.weight.grad.is_sparse and gd.grad.item() == 2",
    ),
    Case(
        "graph_is_reported",
        "import torch\ngr_w = torch.ones(2, requires_grad=True); gr_y = gr_w * 3; gr_y.retain_grad(); gr_l = {'loss': gr_y.sum()}; gr_l['loss'].backward(); gr_n = gr_w.view(2)",
        "assert not gr_y.requires_grad and gr_l['loss'].item() == 6 and gr_w.grad.tolist() == [3, 3]; gr_w.data[0] = 5; assert gr_n[0] == 5",
    ),
    Case(
        "views_of_one_storage",
        "import torch\nvo = torch.arange(24.0); vo_a = vo.view(2, 3, 4).permute(2, 0, 1); vo_b = vo.as_strided((3, 3), (1, 2), 5); vo_c = vo[::2]; vo_e = vo.expand(2, 24); vo_d = vo.view(torch.int32); vo_s = vo.untyped_storage(); vo_0 = vo[3]; vo_u = vo.unfold(0, 4, 2); vo_h = vo.view_as_complex if False else torch.view_as_complex(vo.view(12, 2))\nvo_p = torch.nn.Parameter(vo[:4]); vo_l = list(vo.split(8))",
        "vo[5] = 99; vo[3] = 77; assert vo_a[1, 0, 1] == 99 and vo_b[0, 0] == 99 and vo_e[1, 5] == 99 and vo_0 == 77 and vo_h[1].imag == 77 and vo_p[3] == 77 and vo_l[0][5] == 99 and vo_u[1, 3] == 99\n"
        "assert vo_a.stride() == (1, 12, 4) and vo_b.stride() == (1, 2) and vo_b.storage_offset() == 5 and not vo_a.is_contiguous() and vo_d.dtype == torch.int32 and vo_e.stride() == (0, 1)\nvo_d[0] = 0x3f800000; assert vo[0] == 1.0 == vo_c[0] and vo.untyped_storage().data_ptr() == vo_s.data_ptr()",
    ),
    Case(
        "large_views",
        "import torch\nlv = torch.zeros(400_000); lv_a = lv[100:200]; lv_n = lv.numpy(); lv_m = lv_n[5:9]; lv_t = torch.from_numpy(lv_n[150:])",
        "lv[150] = 4; assert lv_a[50] == 4 == lv_n[150] == lv_t[0]; lv_m[0] = 3; assert lv[5] == 3; lv_t[1] = 8; assert lv[151] == 8",
    ),
    Case(
        "dtypes",
        "import torch\ndt = {d: torch.zeros(3, dtype=d) for d in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool, torch.complex32, torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu)}\n"
        "dt_v = {d: torch.tensor([1.0, 2.0, 4.0]).to(d) for d in dt if d != torch.complex32}; f4 = getattr(torch, 'float4_e2m1fn_x2', torch.float8_e5m2); dt_f4 = torch.empty(4, dtype=f4)  # from torch 2.8 on",
        "assert all(t.dtype is d and t.shape == (3,) for d, t in dt.items()) and dt_f4.dtype is f4\nassert all(t.to(torch.complex128).real.tolist() == [1, 2, 4] for d, t in dt_v.items() if d != torch.bool), dt_v",
    ),
    Case(
        "conjugate_and_negative",
        "import torch\ncn = torch.tensor([1 + 2j, 3 + 4j]); cn_c = cn.conj(); cn_n = cn.conj().imag; cn_r = cn.real; cn_a = cn_c",
        "assert cn_c.is_conj() and cn_n.is_neg() and cn_c is cn_a; cn[0] = 5 + 6j; assert cn_c[0] == 5 - 6j and cn_n[0] == -6 and cn_r[0] == 5",
    ),
    Case(
        "sparse",
        "import torch, warnings\nwith warnings.catch_warnings():\n    warnings.simplefilter('ignore'); sp = torch.sparse_coo_tensor([[0, 0, 1], [1, 1, 2]], [1.0, 2.0, 3.0], (2, 3)); sp_c = sp.coalesce(); sp_r = sp.to_dense().to_sparse_csr(); sp_k = sp.to_dense().to_sparse_csc(); sp_b = torch.eye(4).to_sparse_bsr((2, 2)); sp_g = torch.eye(2).to_sparse().requires_grad_(); sp_v = sp_r.values(); sp_x = sp_c.values(); sp_a = sp_r",
        "assert not sp.is_coalesced() and sp_c.is_coalesced() and sp.to_dense().tolist() == [[0, 3, 0], [0, 0, 3]] and sp_k.layout is torch.sparse_csc and sp_b.to_dense().sum() == 4 and sp_g.requires_grad and sp_a is sp_r\nsp_v[0] = 50; assert sp_r.to_dense()[0, 1] == 50; sp_x[0] = 60; assert sp_c.to_dense()[0, 1] == 60",
    ),
    Case(
        "quantized",
        "import torch, warnings\nwith warnings.catch_warnings():\n    warnings.simplefilter('ignore'); qu = torch.quantize_per_tensor(torch.tensor([1.0, 2.0]), 0.5, 3, torch.quint8); qu_c = torch.quantize_per_channel(torch.ones(2, 2), torch.tensor([0.1, 0.2]), torch.tensor([0, 1]), 0, torch.qint8); qu_i = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint32); qu_a = qu; qu_v = qu[1:]",
        "assert qu.dequantize().tolist() == [1, 2] and qu.q_scale() == 0.5 and qu.q_zero_point() == 3 and torch.allclose(qu_c.dequantize(), torch.ones(2, 2), atol=.1) and qu_i.dtype is torch.qint32 and qu is qu_a\nqu[1] = 5.0; assert qu_v.dequantize().tolist() == [5]",
    ),
    Case(
        "meta_nested_inference",
        "import torch, warnings\nmt = torch.empty(3, 4, device='meta'); mt_m = torch.nn.Linear(1000, 1000, device='meta')\nwith warnings.catch_warnings():\n    warnings.simplefilter('ignore'); ne = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]); nj = torch.nested.nested_tensor([torch.ones(2, 2), torch.ones(3, 2)], layout=torch.jagged)\n"
        "with torch.inference_mode(): inf = torch.ones(3) * 2; inf_v = inf[1:]; inf_p = inf",
        "assert mt.is_meta and mt.shape == (3, 4) and mt_m.weight.is_meta and isinstance(mt_m.weight, torch.nn.Parameter) and [t.shape[0] for t in ne.unbind()] == [2, 3] and [t.shape[0] for t in nj.unbind()] == [2, 3]\n"
        "assert inf.is_inference() and inf is inf_p\nwith torch.inference_mode(): inf[1] = 9\nassert inf_v[0] == 9",
    ),
    Case(
        "subclasses",
        "import torch\nclass TS(torch.Tensor):\n    @classmethod\n    def __torch_function__(cls, f, types, a=(), kw=None):\n        ts_calls.append(f.__name__) if ts_on else None\n        return super().__torch_function__(f, types, a, kw or {})\nts_calls, ts_on = [], False\n"
        "ts_b = torch.arange(4.0); ts = ts_b.as_subclass(TS); ts.tag = [1]; ts_t = ts.tag; ts_v = ts[1:]; ts_p = torch.nn.Parameter(torch.ones(2).as_subclass(TS)); ts_p.grad = torch.ones(2).as_subclass(TS); ts_bu = torch.nn.Buffer(torch.ones(2)); ts_up = torch.nn.parameter.UninitializedParameter()\n"
        "class TSP(torch.nn.Parameter): pass\ntsp = TSP(torch.ones(2))",
        "assert type(ts) is TS and ts.tag is ts_t and type(ts_v) is TS; ts_b[1] = 9; assert ts[1] == 9 and ts_v[0] == 9; ts_on = True; ts + 1; assert 'add' in ts_calls; ts_on = False\nassert type(tsp) is TSP and tsp.requires_grad and isinstance(ts_bu, torch.nn.Buffer) and isinstance(ts_p, torch.nn.Parameter) and type(ts_p.grad) is TS and type(ts_up) is torch.nn.parameter.UninitializedParameter",
    ),
    Case(
        "wrapper_subclass",
        "import torch\nclass WS(torch.Tensor):\n    @staticmethod\n    def __new__(cls, a, b): return torch.Tensor._make_wrapper_subclass(cls, a.shape, dtype=a.dtype)\n    def __init__(self, a, b): self.a, self.b = a, b\n    @classmethod\n    def __torch_dispatch__(cls, f, types, args, kw=None):\n        un = lambda x: x.a if isinstance(x, WS) else x\n        return f(*[un(x) for x in args], **(kw or {}))\nws_a = torch.ones(3); ws = WS(ws_a, [1]); ws_2 = ws",
        "assert type(ws) is WS and ws is ws_2 and ws.a is ws_a and ws.b == [1] and (ws + 1).tolist() == [2, 2, 2]",
    ),
    Case(
        "storages",
        "import torch, warnings\nst = torch.arange(4.0); st_u = st.untyped_storage(); st_t = st.storage() if False else torch.TypedStorage(wrap_storage=st_u, dtype=torch.float32, _internal=True); st_0 = torch.empty(0); st_02 = torch.empty(0, 3); st_s = torch.tensor(5); st_r = torch.empty(0); st_r2 = st_r.view(0)",
        "st[1] = 8; assert st_t[1] == 8 and st_u.data_ptr() == st.untyped_storage().data_ptr() and st_02.shape == (0, 3) and st_s.item() == 5 and st_s.shape == ()",
    ),
    Case(
        "shared_memory",
        "import torch\nsm = torch.arange(5.0).share_memory_(); sm_m = torch.nn.Linear(2, 2).share_memory(); sm_v = sm[1:]; sm_p = sm_m.weight",
        "assert sm_m.weight is sm_p; sm[1] = 6; assert sm_v[0] == 6 and sm.tolist() == [0, 6, 2, 3, 4]",
    ),
    Case(
        "packed_sequences_and_distributions",
        "import torch\nps = torch.nn.utils.rnn.pack_padded_sequence(torch.ones(3, 2, 1), [3, 2]); di = torch.distributions.Normal(torch.zeros(2), torch.ones(2)); td = torch.device('cpu'); tsz = torch.Size([1, 2]); tdt = torch.float16; tfi = torch.finfo(torch.float32); tmf = torch.channels_last",
        "assert ps.batch_sizes.tolist() == [2, 2, 1] and di.log_prob(torch.zeros(2)).shape == (2,) and td == torch.device('cpu') and tsz == (1, 2) and type(tsz) is torch.Size and tdt is torch.float16 and tmf is torch.channels_last",
    ),
    Case(
        "generator_identity",
        "import torch\ngi_g = torch.Generator().manual_seed(1); torch.rand(2, generator=gi_g); gi_2 = {'g': gi_g}; gi_s = gi_g.get_state().clone(); gi_seed = gi_g.initial_seed(); gi_d = torch.default_generator",
        "assert gi_2['g'] is gi_g and (gi_g.get_state() == gi_s).all() and gi_g.initial_seed() == gi_seed and gi_d is torch.default_generator",
    ),
    Case(
        "channels_last_model",
        "import torch\nchl = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last); chl_x = torch.zeros(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)",
        "assert chl.weight.is_contiguous(memory_format=torch.channels_last) and chl_x.stride() == (48, 1, 12, 3)",
    ),
]

CASES = [*TRAINING, *MODULES, *TENSORS]


NO_GRAPH = "its autograd graph is not kept: it comes back detached"
NOTES = {
    f"gd: {NO_GRAPH}",  # the gradient, made with create_graph=True
    f"gd_l: {NO_GRAPH}",
    f"gr_y: {NO_GRAPH}",
    f"gr_l: {NO_GRAPH}",
    f"gr_n: {NO_GRAPH}",
    f"pr: {NO_GRAPH}",  # the masked weight, made anew by each forward
    f"pzl: {NO_GRAPH}",
    "sm: was in shared memory: it comes back in memory of its own",
    "sm_m: was in shared memory: it comes back in memory of its own",
    "sm_v: was in shared memory: it comes back in memory of its own",
}


@pytest.fixture(scope="module")
def trip(tmp_path_factory: pytest.TempPathFactory) -> RoundTrip:
    return RoundTrip(tmp_path_factory.mktemp("fidelity") / "store", CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_comes_back_as_it_was(trip: RoundTrip, case: Case) -> None:
    trip.check(case)


def test_nothing_is_lost(trip: RoundTrip) -> None:
    assert trip.lost == []


def test_what_is_not_kept_is_reported_and_nothing_else(trip: RoundTrip) -> None:
    assert set(trip.notes) == NOTES
