//! Weights as the kernels read them, in bytes that need no work when they are loaded.
//!
//! Three sections of a packed file: `shape` says how the weights are stored (the number of the word embeddings' format,
//! the number of outputs of the heads as a u32, and for each linear layer in order of use whether it is int8), `weights`
//! has all that is read for every message in the order of [`Encoder`]'s parts, and `words` the table of word embeddings
//! with its scales behind it. Numbers are little-endian.

use super::{
    bytes::{Owner, Shared},
    config::EncoderConfig,
    encoder::Encoder,
    kernels::{Buffer, Isa, Linear, Norm, Side, bytes_of, fill},
    rows::{Format, GROUP, Rows},
    source::Source,
};
use std::ops::Range;

/// Bytes of `shape` before the flags of the layers.
const HEAD: usize = 5;
/// More outputs than any head has; a file that claims more is broken.
const MAX_OUTPUTS: usize = 1 << 17;

/// The sections of an encoder.
pub(crate) struct Sections {
    pub(crate) shape: Vec<u8>,
    pub(crate) weights: Vec<u8>,
    pub(crate) words: Vec<u8>,
}

/// Where the sections lie in the bytes of a file.
pub(crate) struct Places {
    pub(crate) shape: Range<usize>,
    pub(crate) weights: Range<usize>,
    pub(crate) words: Range<usize>,
}

impl Encoder {
    /// The sections of a packed file.
    pub(crate) fn into_sections(mut self) -> Sections {
        let words = self.words();
        let format = Format::ALL.iter().position(|&format| format == words.format).unwrap_or_default();
        let mut shape = vec![format as u8];
        shape.extend((self.outputs() as u32).to_le_bytes());
        let words = [words.values.as_slice(), words.scales.as_slice()].concat();
        shape.extend(self.linears().map(|linear| u8::from(linear.is_int8())));
        let weights = bytes_of(&self.parts());
        Sections { shape, weights, words }
    }

    /// Reads the sections; word embeddings stay where they are.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn from_sections(
        config: &EncoderConfig,
        owner: &Owner,
        places: Places,
        isa: Isa,
    ) -> Result<Self, &'static str> {
        if cfg!(target_endian = "big") {
            return Err("its numbers are little-endian, those of this machine are not");
        }
        let [shape, weights] = [places.shape, places.weights].map(|place| Shared::part(owner, place));
        let (head, flags) = shape.as_slice().split_first_chunk::<HEAD>().ok_or("the shape is cut short")?;
        let [format, outputs @ ..] = *head;
        let outputs = u32::from_le_bytes(outputs) as usize;
        if outputs < config.id2label.len() || outputs > MAX_OUTPUTS {
            return Err("the heads have more outputs than can be, or fewer than labels");
        }
        let format = *Format::ALL.get(usize::from(format)).ok_or("the word embeddings have an unknown format")?;
        if format == Format::I4 && !config.hidden_size.is_multiple_of(GROUP) {
            return Err("the word embeddings do not divide into groups");
        }
        let (values, scales) = (
            format.bytes(config.vocab_size * config.hidden_size),
            format.scale_bytes(config.vocab_size, config.hidden_size),
        );
        if places.words.len() != values + scales {
            return Err("the word embeddings are not as many as config.json says");
        }
        let split = places.words.start + values;
        let words = Rows {
            format,
            values: Shared::part(owner, places.words.start..split),
            scales: Shared::part(owner, split..places.words.end),
        };
        // Before memory for weights of this shape is asked for.
        if !flags.iter().all(|&flag| flag <= 1) || Encoder::least_bytes(config) > weights.as_slice().len() {
            return Err("the weights are fewer than config.json says");
        }
        let blank = Blank { config, flags: flags.iter(), outputs, words };
        let mut encoder = Encoder::assemble(config, isa, blank)?;
        if !fill(encoder.parts(), weights.as_slice()) {
            return Err("the weights are not as many as config.json says");
        }
        if encoder.words().is_finite() && encoder.parts().iter().all(|part| part.is_finite()) {
            Ok(encoder)
        } else {
            Err("there is a value that is not finite")
        }
    }
}

/// Gives parts of the right size, to be filled.
struct Blank<'a> {
    config: &'a EncoderConfig,
    flags: std::slice::Iter<'a, u8>,
    outputs: usize,
    words: Rows,
}

impl Blank<'_> {
    fn is_int8(&mut self) -> Result<bool, &'static str> {
        self.flags.next().map(|&flag| flag == 1).ok_or("there are fewer layers than config.json says")
    }
}

impl Source for Blank<'_> {
    type Error = &'static str;

    fn linear(&mut self, names: &[&str], inputs: Side, outputs: Side) -> Result<Linear, Self::Error> {
        Ok(Linear::zeros(self.is_int8()?, names.len(), inputs, outputs))
    }

    fn norm(&mut self, _: &str, side: Side) -> Result<Norm, Self::Error> {
        let (weight, bias) = (Buffer::zeros(side.row()), Buffer::zeros(side.row()));
        Ok(Norm { weight, bias, epsilon: self.config.layer_norm_eps as f32 })
    }

    fn positions(&mut self, side: Side) -> Result<Buffer<f32>, Self::Error> {
        Ok(Buffer::zeros(self.config.max_position_embeddings * side.row()))
    }

    fn words(&mut self) -> Result<Rows, Self::Error> {
        Ok(self.words.clone())
    }

    fn heads(&mut self, inputs: Side) -> Result<(Linear, usize), Self::Error> {
        Ok((Linear::zeros(self.is_int8()?, 1, inputs, Side::last(self.outputs)), self.outputs))
    }
}
