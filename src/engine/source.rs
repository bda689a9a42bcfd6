//! Where an encoder's weights come from: the tensors of a checkpoint, packed on the way, or a packed file.

use super::{
    config::EncoderConfig,
    kernels::{Buffer, Linear, Norm, Side},
    rows::Rows,
    tensors::{TensorFile, WeightsError},
};

/// Hands out the parts of an encoder, in the order in which it asks for them.
pub(crate) trait Source {
    /// What can be wrong with it.
    type Error;

    /// The layers of these names side by side, as one.
    fn linear(&mut self, names: &[&str], inputs: Side, outputs: Side) -> Result<Linear, Self::Error>;

    /// The layer norm of this name, its values in padded rows.
    fn norm(&mut self, name: &str, side: Side) -> Result<Norm, Self::Error>;

    /// Position embeddings with row 0 of the token type table added, in padded rows.
    fn positions(&mut self, side: Side) -> Result<Buffer<f32>, Self::Error>;

    /// The table of word embeddings.
    fn words(&mut self) -> Result<Rows, Self::Error>;

    /// The heads in one layer, and how many outputs they have: labels, then languages.
    fn heads(&mut self, inputs: Side) -> Result<(Linear, usize), Self::Error>;
}

/// A checkpoint with the standard tensor names.
pub(crate) struct Checkpoint<'a> {
    pub(crate) config: &'a EncoderConfig,
    pub(crate) file: &'a TensorFile<'a>,
}

impl Checkpoint<'_> {
    fn table(&self, name: &str, rows: usize) -> Result<Vec<f32>, WeightsError> {
        self.file.read(&format!("bert.embeddings.{name}.weight"), &[rows, self.config.hidden_size])
    }
}

impl Source for Checkpoint<'_> {
    type Error = WeightsError;

    fn linear(&mut self, names: &[&str], inputs: Side, outputs: Side) -> Result<Linear, WeightsError> {
        let matrices = names
            .iter()
            .map(|name| {
                let weight = self.file.rows(&format!("{name}.weight"), &[outputs.len(), inputs.len()])?;
                Ok((weight, self.file.read(&format!("{name}.bias"), &[outputs.len()])?))
            })
            .collect::<Result<Vec<_>, WeightsError>>()?;
        Ok(Linear::pack(&matrices, inputs, outputs))
    }

    fn norm(&mut self, name: &str, side: Side) -> Result<Norm, WeightsError> {
        let values = |what: &str| self.file.read(&format!("{name}.{what}"), &[side.len()]);
        let (weight, bias) = (padded(&values("weight")?, side), padded(&values("bias")?, side));
        Ok(Norm { weight, bias, epsilon: self.config.layer_norm_eps as f32 })
    }

    fn positions(&mut self, side: Side) -> Result<Buffer<f32>, WeightsError> {
        let mut positions = self.table("position_embeddings", self.config.max_position_embeddings)?;
        let types = self.table("token_type_embeddings", self.config.type_vocab_size)?;
        for row in positions.chunks_exact_mut(side.len()) {
            row.iter_mut().zip(&types).for_each(|(x, y)| *x += y);
        }
        Ok(padded(&positions, side))
    }

    fn words(&mut self) -> Result<Rows, WeightsError> {
        let shape = [self.config.vocab_size, self.config.hidden_size];
        self.file.rows("bert.embeddings.word_embeddings.weight", &shape)
    }

    fn heads(&mut self, inputs: Side) -> Result<(Linear, usize), WeightsError> {
        let (mut outputs, width) = (self.config.id2label.len(), inputs.len());
        // In f32: they are small, and their rounding would go straight into the logits.
        let mut weight = self.file.read("classifier.weight", &[outputs, width])?;
        let mut bias = self.file.read("classifier.bias", &[outputs])?;
        if let Some(&[languages, _]) = self.file.shape("language.weight").as_deref() {
            weight.extend(self.file.read("language.weight", &[languages, width])?);
            bias.extend(self.file.read("language.bias", &[languages])?);
            outputs += languages;
        }
        Ok((Linear::pack(&[(Rows::from_f32(&weight), bias)], inputs, Side::last(outputs)), outputs))
    }
}

/// Rows of `side.len()` values in padded rows.
fn padded(values: &[f32], side: Side) -> Buffer<f32> {
    let room = values.len() / side.len() * side.row();
    let mut buffer = Buffer::zeros(room);
    for (to, from) in buffer.room(room).chunks_exact_mut(side.row()).zip(values.chunks_exact(side.len())) {
        to[..side.len()].copy_from_slice(from);
    }
    buffer
}
