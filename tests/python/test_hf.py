"""lace.hf against transformers' eager attention: tiny models with random weights, float32, offline.

Usage: test_hf.py [TestClass...] [unittest options], on an interpreter that has lace and
transformers. Prints a table: model, check, largest difference, and whether lace computed it.
"""

import copy
import os
import unittest
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from transformers import (
    BigBirdConfig,
    BigBirdModel,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GptOssConfig,
    GptOssForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LongformerConfig,
    LongformerModel,
    MistralConfig,
    MistralForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
)

import lace

SMALL = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
DECODER = {
    **SMALL,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GREEDY = {"max_new_tokens": 64, "min_new_tokens": 64, "do_sample": False, "disable_compile": True}
table = []


def tokens(batch, length, seed=1):
    return torch.randint(3, 128, (batch, length), generator=torch.Generator().manual_seed(seed))


class ModelTest(unittest.TestCase):
    """Checks that each class of a model calls, and what they share."""

    def start(self, model_class, config):
        torch.manual_seed(0)
        config._attn_implementation = "eager"
        self.eager = model_class(config).eval()
        with torch.no_grad():
            for name, parameter in self.eager.named_parameters():
                if "sinks" in name:
                    parameter.normal_()
        lace.hf.register()
        self.lace = copy.deepcopy(self.eager)
        self.lace.set_attn_implementation("lace")

    def record(self, check, run, by_lace, tolerance):
        """run() gives the largest difference. by_lace: nothing may go to a real mask."""
        lace._library._warned.clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            difference = run()
        reasons = [str(w.message) for w in caught if "lace" in str(w.message)]
        row = (type(self).__name__.removesuffix("Test"), check, f"{difference:.1e}", *reasons)
        table.append(row)
        self.assertLess(difference, tolerance, row)
        self.assertEqual(reasons == [], by_lace, row)

    def compare(self, check, by_lace=True, live=None, **inputs):
        """Outputs to 1e-5 and gradients to 1e-4 of the largest, where `live` [batch, length]."""
        where = 1.0 if live is None else live[..., None].float()
        results = []

        def run_both():
            for model in (self.eager, self.lace):
                out = model(**inputs)[0] * where
                weights = torch.linspace(-1, 1, out.numel()).view(out.shape)
                model.zero_grad()
                (out * weights).sum().backward()
                grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
                results.append((out, grads))
            (a, _), (b, _) = results
            return (a - b).abs().max().item()

        self.record(check, run_both, by_lace, 1e-5)
        (_, a), (_, b) = results
        self.assertEqual(a.keys(), b.keys())
        top = max(g.abs().max().item() for g in a.values())
        for name, expected in a.items():
            error = (b[name] - expected).abs().max().item()
            self.assertLess(error, 1e-4 * max(expected.abs().max().item(), 1e-2 * top), name)

    def generate(self, check, by_lace=True, inputs=None, **options):
        """64 tokens: as many that differ."""
        inputs = inputs or {"input_ids": tokens(2, 20)}

        def run_both():
            a, b = (m.generate(**inputs, **{**GREEDY, **options}) for m in (self.eager, self.lace))
            self.assertEqual(a.shape, b.shape)
            return (a != b).sum().item()

        self.record(check, run_both, by_lace, 0.5)

    def padded(self, left, length=50):
        """Of a batch of two the second is shorter by 7: input_ids and attention_mask."""
        mask = torch.ones(2, length, dtype=torch.long)
        mask[1, slice(0, 7) if left else slice(-7, None)] = 0
        return {"input_ids": tokens(2, length) * mask, "attention_mask": mask}

    def check_decoder(self, reads_positions=True):
        """What all causal models can. reads_positions: whether the model hands position_ids to the
        makers of masks; one that does not attends across packed documents, in eager too."""
        ids = tokens(2, 50)
        self.compare("logits, gradients", input_ids=ids)
        self.compare("a mask of ones", input_ids=ids, attention_mask=torch.ones_like(ids))
        for side in ("left", "right"):
            inputs = self.padded(side == "left")
            live = inputs["attention_mask"]
            self.compare(f"{side} padding", live=live, **inputs)
        positions = torch.cat([torch.arange(n) for n in (20, 3, 27)]).expand(2, -1)
        packed = {"input_ids": ids, "position_ids": positions, "use_cache": False}
        self.compare("packed documents", **packed)
        # Each document alone equals its rows in the pack.
        whole = self.lace(**packed).logits
        for begin, end in ((0, 20), (20, 23), (23, 50)) if reads_positions else ():
            alone = self.lace(ids[:, begin:end], use_cache=False).logits
            self.assertLess((whole[:, begin:end] - alone).abs().max().item(), 1e-5)
        self.generate("64 greedy tokens")
        self.generate("the same from 1 token", inputs={"input_ids": tokens(2, 1)})
        self.generate("the same after left padding", inputs=self.padded(True, 20))
        options = {"inputs": self.padded(True, 20), "cache_implementation": "static"}
        self.generate("the same, static, left padding", **options)
        self.generate("the same from a static cache", cache_implementation="static")
        self.generate("the same without a cache", use_cache=False)
        self.generate("beam search", num_beams=3)

    def check_compiled_generation(self):
        """A static cache, and one compiled step for all lengths."""
        torch._dynamo.reset()
        compiled = transformers.CompileConfig(fullgraph=True, backend="aot_eager", mode=None)
        compiled._compile_all_devices = True
        options = {"cache_implementation": "static", "compile_config": compiled}
        counters = torch._dynamo.utils.counters
        for name, inputs in [
            ("", {"input_ids": tokens(2, 20)}),
            (", padded", self.padded(True, 20)),
        ]:

            def run_both(inputs=inputs):
                expected = self.eager.generate(**inputs, **GREEDY)
                counters.clear()
                got = self.lace.generate(
                    **inputs, **{**GREEDY, **options, "disable_compile": False}
                )
                return (got != expected).sum().item()

            self.record(f"compiled generation{name}", run_both, True, 0.5)
            self.assertIn(counters["stats"]["unique_graphs"], (1, 2, 3), "not one for each token")

    def check_compiled(self, **inputs):
        torch._dynamo.reset()
        compiled = torch.compile(self.lace, backend="aot_eager")

        def run_both():
            with torch.no_grad():
                return (self.eager(**inputs)[0] - compiled(**inputs)[0]).abs().max().item()

        self.record("torch.compile", run_both, True, 1e-5)


class MistralTest(ModelTest):
    def setUp(self):
        self.start(
            MistralForCausalLM, MistralConfig(**DECODER, num_hidden_layers=2, sliding_window=16)
        )

    def test_as_eager(self):
        self.check_decoder()

    def test_dropout_and_weights(self):
        """What lace does not compute is done with a real mask, in training with dropout too."""
        self.compare("output_attentions", False, input_ids=tokens(2, 50), output_attentions=True)
        for layer in self.lace.model.layers:
            layer.self_attn.attention_dropout = 0.5
        self.lace.train()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            lace._library._warned.clear()
            torch.manual_seed(0)
            first, second = (self.lace(tokens(2, 50)).logits for _ in range(2))
        self.assertTrue(any("dropout" in str(w.message) for w in caught))
        self.assertFalse(torch.equal(first, second))

    def test_own_masks(self):
        """A mask of the caller's, bool or float, with four dimensions."""
        mask = torch.rand(2, 1, 50, 50, generator=torch.Generator().manual_seed(3)) < 0.5
        mask |= torch.eye(50, dtype=torch.bool)
        low = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        for name, own in (("bool", mask), ("float", low)):

            def run_both(own=own):
                expected = self.eager(tokens(2, 50), attention_mask=low).logits
                got = self.lace(tokens(2, 50), attention_mask=own).logits
                return (expected - got).abs().max().item()

            self.record(f"own {name} mask", run_both, True, 1e-5)

    def test_unknown_mask_functions(self):
        """A function that is none of transformers' own is evaluated, not guessed at."""
        from transformers.masking_utils import create_causal_mask

        hidden = torch.zeros(2, 50, 64)
        masks = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for model in (self.eager, self.lace):
                masks.append(
                    create_causal_mask(
                        model.config,
                        hidden,
                        None,
                        None,
                        and_mask_function=lambda b, h, q, k: q - k != 3,
                    )
                )
        self.assertTrue(torch.equal(masks[0] == 0, masks[1]))

    def test_padding_between_tokens(self):
        """Which no plan has: a real mask."""
        inputs = {"input_ids": tokens(2, 50), "attention_mask": torch.ones(2, 50, dtype=torch.long)}
        inputs["attention_mask"][1, 20:25] = 0
        self.compare("padding between tokens", False, inputs["attention_mask"], **inputs)

    def test_continued_after_padding(self):
        """Several tokens at once after a prompt that was padded, in a cache."""
        inputs = self.padded(left=True)

        def run_both():
            results = []
            for model in (self.eager, self.lace):
                first = {name: value[:, :30] for name, value in inputs.items()}
                cache = model(**first, use_cache=True).past_key_values
                rest = {
                    **inputs,
                    "input_ids": inputs["input_ids"][:, 30:],
                    "past_key_values": cache,
                }
                results.append(model(**rest).logits)
            return (results[0] - results[1]).abs().max().item()

        self.record("continued after left padding", run_both, True, 1e-5)

    def test_documents_given_as_for_flash_attention(self):
        ids, bounds = tokens(1, 50), torch.tensor([0, 20, 23, 50], dtype=torch.int32)
        lens = bounds.diff().tolist()
        given = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_k": max(lens)}
        positions = torch.cat([torch.arange(n) for n in lens])[None]

        def run_both():
            packed = {"input_ids": ids, "position_ids": positions, "use_cache": False}
            expected = self.eager(**packed).logits
            # Positions that count on, so that the bounds alone tell documents apart; rotary
            # positions are relative.
            got = self.lace(ids, use_cache=False, **given).logits
            return (expected - got).abs().max().item()

        self.record("cu_seq_lens", run_both, True, 1e-5)

    def test_indexers_are_an_error(self):
        q = torch.zeros(1, 2, 8, 16)
        with self.assertRaisesRegex(lace.NotSupportedError, "an indexer chooses are not computed"):
            lace.hf.attention_forward(self.lace, q, q, q, None, indices=torch.zeros(1, 8, 2))


class GptOssTest(ModelTest):
    def test_as_eager(self):
        config = GptOssConfig(
            **DECODER,
            num_hidden_layers=2,
            sliding_window=16,
            num_local_experts=4,
            num_experts_per_tok=2,
        )
        self.start(GptOssForCausalLM, config)
        self.check_decoder(reads_positions=False)


class Gemma3Test(ModelTest):
    def setUp(self):
        config = Gemma3TextConfig(**DECODER, num_hidden_layers=6, sliding_window=16)
        self.start(Gemma3ForCausalLM, config)

    def test_as_eager(self):
        self.check_decoder()

    def test_compiled(self):
        self.check_compiled(input_ids=tokens(2, 50), use_cache=False)
        self.check_compiled_generation()


class Gemma2Test(ModelTest):
    def test_as_eager(self):
        config = transformers.Gemma2Config(
            **DECODER, num_hidden_layers=2, sliding_window=16, attn_logit_softcapping=2.0
        )
        self.start(transformers.Gemma2ForCausalLM, config)
        self.check_decoder()


class Llama4Test(ModelTest):
    def test_as_eager(self):
        config = Llama4TextConfig(
            **DECODER,
            intermediate_size_mlp=96,
            num_hidden_layers=4,
            attention_chunk_size=16,
            num_local_experts=2,
        )
        self.start(Llama4ForCausalLM, config)
        self.check_decoder()


class ModernBertTest(ModelTest):
    def test_as_eager(self):
        config = ModernBertConfig(
            **SMALL, num_hidden_layers=3, local_attention=16, cls_token_id=1, sep_token_id=2
        )
        self.start(ModernBertForMaskedLM, config)
        self.compare("logits, gradients", input_ids=tokens(2, 50))
        inputs = self.padded(left=False)
        self.compare("right padding", live=inputs["attention_mask"], **inputs)
        inputs = self.padded(left=True)
        self.compare("left padding", live=inputs["attention_mask"], **inputs)


class PatchedTest(ModelTest):
    OWN = {**SMALL, "num_hidden_layers": 2, "hidden_dropout_prob": 0.0}

    def start(self, model_class, config):
        torch.manual_seed(0)
        self.eager = model_class(config).eval()
        self.lace = lace.hf.patch(copy.deepcopy(self.eager))

    def test_others_are_an_error(self):
        with self.assertRaisesRegex(lace.Error, r"\[lace.hf.patch\] model must have Longformer's"):
            lace.hf.patch(torch.nn.Linear(2, 2))


class LongformerTest(PatchedTest):
    def setUp(self):
        config = LongformerConfig(
            **self.OWN, attention_probs_dropout_prob=0.0, attention_window=[8, 16]
        )
        self.start(LongformerModel, config)

    def test_as_eager(self):
        ids, ones = tokens(2, 96), torch.ones(2, 96, dtype=torch.long)
        for name, globals_ in [
            ("no global tokens", [[], []]),
            ("leading ones", [[0, 1, 2], [0, 1, 2]]),
            ("scattered ones", [[0, 5, 50], [0, 5, 50]]),
            ("one element's own", [[0], [3, 9]]),
            ("in one element only", [[], [95]]),
        ]:
            mask = torch.zeros_like(ids)
            for row, where in zip(mask, globals_, strict=True):
                row[where] = 1
            inputs = {"input_ids": ids, "attention_mask": ones, "global_attention_mask": mask}
            self.compare(name, **inputs)
        padded = self.padded(left=False, length=96)
        live = padded["attention_mask"]
        for name, globals_ in [("leading ones", [[0, 1], [0, 1]]), ("own ones", [[0], [3, 80]])]:
            mask = torch.zeros_like(ids)
            for row, where in zip(mask, globals_, strict=True):
                row[where] = 1
            inputs = {**padded, "global_attention_mask": mask}
            self.compare(f"right padding, {name}", live=live, **inputs)
        self.compare("a length that is padded", input_ids=ids[:, :90])
        padded = self.padded(left=True, length=96)
        self.compare("left padding", False, padded["attention_mask"], **padded)
        self.compare("output_attentions", False, input_ids=ids, output_attentions=True)

    def test_trains_with_dropout(self):
        self.lace.train()
        for layer in self.lace.encoder.layer:
            layer.attention.self.dropout = 0.5
        first, second = (self.lace(tokens(2, 96))[0] for _ in range(2))
        self.assertFalse(torch.equal(first, second))


class BigBirdTest(PatchedTest):
    def test_as_eager(self):
        ids = tokens(2, 96)
        for count in (1, 2):
            config = BigBirdConfig(
                **self.OWN,
                attention_probs_dropout_prob=0.0,
                block_size=4,
                num_random_blocks=count,
            )
            self.start(BigBirdModel, config)
            self.compare(f"eval, {count} random", input_ids=ids)
            self.eager.train()
            self.lace.train()
            self.compare(f"train, {count} random", input_ids=ids)
            self.eager.eval()
            self.lace.eval()
            padded = self.padded(left=False, length=96)
            self.compare("right padding", live=padded["attention_mask"], **padded)
            self.compare("a length that is padded", input_ids=ids[:, :90])
            self.compare("short: original_full", input_ids=ids[:, :20])

    def test_lengths_of_the_paper(self):
        config = BigBirdConfig(
            **{**self.OWN, "max_position_embeddings": 1024},
            attention_probs_dropout_prob=0.0,
            block_size=64,
            num_random_blocks=2,
        )
        self.start(BigBirdModel, config)
        self.compare("eval, 1024 tokens", input_ids=tokens(1, 1024))
        # There, in training, random blocks may be those of the window, which then count twice.
        self.eager.train()
        self.lace.train()
        self.compare("train, 1024 tokens", False, input_ids=tokens(1, 1024))


def print_table():
    print(f"\ntransformers {transformers.__version__}, torch {torch.__version__}")
    for model, check, difference, *reasons in table:
        print(f"{model:12} {check:30} {difference:8} {reasons[0] if reasons else ''}")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    unittest.addModuleCleanup(print_table)
    unittest.main(verbosity=2)
