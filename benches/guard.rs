//! Where the microseconds of a message go. Run with `cargo bench`; `cargo bench -- check/` for one group.
//!
//! - `check/...`: message to verdict, by length and language.
//! - `stage/...`: normalise, tokenise, forward pass, decide, on one ordinary message.
//! - `forward/...`: the forward pass by number of tokens, for every instruction set of this machine, and for candle-
//!   transformers' BertModel (set `RAYON_NUM_THREADS=1` to hold candle to one thread).

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use intentgate::{
    Bundle, Flow, Guard,
    engine::{Encoder, EncoderConfig, Isa, Scratch, TensorFile},
    text::normalize,
    tokenizer,
};
use std::hint::black_box;

const MESSAGES: &[(&str, &str)] = &[
    ("en-short", "where is my parcel"),
    ("en-medium", "do you have the running shoes in size 43 and can I pick them up in the shop today?"),
    (
        "en-long",
        "hello, I ordered two lamps and a table last week. The table came on Tuesday but with a broken leg, the lamps \
      are still missing, nobody answers the phone, and now the courier says the parcel went back to you. I would like the \
      lamps sent again and somebody to take the table away, please, and I want to know who pays for all of this.",
    ),
    ("zh", "你们家那个蓝色的杯子还有货吗，有的话我要两个，地址还是上次那个"),
    ("es", "quisiera cambiar la cita del martes para el jueves por la tarde"),
    ("ar", "ابغى احجز موعد يوم الاحد العصر"),
    ("hi", "मेरा ऑर्डर कब तक आएगा, दो हफ़्ते हो गए"),
    ("hi-Latn", "bhaiya mera parcel kahan atka hai"),
];
const ORDINARY: &str = MESSAGES[1].1;

fn check(c: &mut Criterion) {
    let guard = Guard::embedded().expect("the embedded model loads");
    let mut group = c.benchmark_group("check");
    for (name, text) in MESSAGES {
        let tokens = guard.token_ids(None, text).len();
        group.throughput(Throughput::Elements(1));
        group.bench_with_input(BenchmarkId::new(*name, format!("{tokens} tokens")), text, |b, text| {
            b.iter(|| guard.check(black_box(text)));
        });
    }
    let huge = ORDINARY.repeat(4096 / ORDINARY.len() + 1);
    let huge = &huge[..4096];
    group.bench_function("4096 characters", |b| b.iter(|| guard.check(black_box(huge))));
    group.finish();
}

fn stages(c: &mut Criterion) {
    let guard = Guard::embedded().expect("the embedded model loads");
    let mut group = c.benchmark_group("stage");
    for text in [ORDINARY, MESSAGES[3].1] {
        let name = if text == ORDINARY { "en" } else { "zh" };
        group.bench_function(format!("normalise {name}"), |b| b.iter(|| normalize(black_box(text))));
        let normal = normalize(text);
        let (mut scratch, mut ids) = (tokenizer::Scratch::default(), Vec::new());
        group.bench_function(format!("tokenise {name}"), |b| {
            b.iter(|| {
                ids.clear();
                guard.tokenizer().encode(Some(Flow::Order), black_box(&normal), &mut scratch, &mut ids);
            });
        });
        group.bench_function(format!("forward {name}"), |b| b.iter(|| guard.logits(None, black_box(text))));
    }
    group.finish();
}

fn forward(c: &mut Criterion) {
    let bundle = Bundle::embedded();
    let config = EncoderConfig::from_json(&bundle.config).expect("config.json");
    let file = TensorFile::parse(&bundle.weights).expect("weights");
    let mut group = c.benchmark_group("forward");
    for tokens in [8, 16, 32, 64] {
        let ids: Vec<u32> = (0..tokens).map(|n| 9 + 97 * n).collect();
        let mut logits = vec![0.0; config.id2label.len()];
        for isa in Isa::available() {
            let encoder = Encoder::load_for(&config, &file, isa).expect("weights");
            let mut scratch = Scratch::default();
            group.bench_with_input(BenchmarkId::new(format!("native {isa}"), tokens), &ids, |b, ids| {
                b.iter(|| encoder.logits(black_box(ids), &mut scratch, &mut logits));
            });
        }
        #[cfg(feature = "train")]
        {
            use intentgate::guard::Backend;
            let reference =
                intentgate::model::Reference::load(&config, &file, &candle_core::Device::Cpu).expect("candle");
            group.bench_with_input(BenchmarkId::new("candle f32", tokens), &ids, |b, ids| {
                b.iter(|| reference.logits(black_box(ids), &mut logits));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, check, stages, forward);
criterion_main!(benches);
