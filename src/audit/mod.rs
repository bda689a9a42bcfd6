//! The audit log: who may later ask what was answered, and what was refused, finds one record of each decision.
//!
//! A [`Recorder`] makes a [`Record`] of a message, the guard's verdict and the policy's decision. It keeps no names: a
//! conversation is a [keyed hash](Key), and the text is left out, [redacted](redact) or kept, by [`TextPolicy`]. A [`Log`]
//! appends records as lines of JSON to files in a directory, one file per UTC day or more.
//!
//! Either call [`Log::append`], which returns when the record is written, or put a [`queue`] in between, so that a
//! slow disk never holds up an answer: what does not fit is lost, and the loss is counted and written down.
//!
//! `intentgate audit` reads logs: reports, rows for the annotator, and what another model would have said.

mod file_name;
#[cfg(feature = "data")]
mod frequent;
mod key;
mod line;
mod line_file;
mod log;
mod queue;
mod record;
mod redact;
#[cfg(feature = "data")]
pub mod replay;
#[cfg(feature = "data")]
pub mod report;
#[cfg(feature = "data")]
pub mod rows;
mod timestamp;
#[cfg(feature = "data")]
mod top;

pub use file_name::files;
pub use key::{ConversationKey, Key, ShortSecret};
pub use line::{Entry, FORMAT, Line, LineError, Lost, Reader};
pub use log::{Flush, Log, LogError, LogOptions, TornLine};
pub use queue::{Sender, Summary, Writer, queue};
pub use record::{Event, Record, RecordedDecision, RecordedVerdict, Recorder, TextPolicy};
pub use redact::redact;
pub use timestamp::Timestamp;
