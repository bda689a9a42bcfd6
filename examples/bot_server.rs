//! A bot in ten lines: lines of stdin are messages, and the guard decides what the bot may answer.
//!
//! `cargo run --release --no-default-features --features embedded --example bot_server`

use intentgate::{Guard, Intent};
use std::io::{BufRead, stdin};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let guard = Guard::embedded()?;
    for message in stdin().lock().lines() {
        let reply = match guard.check(&message?).intent() {
            Some(Intent::Order) => "→ order flow",
            Some(Intent::Appointment) => "→ appointment flow",
            Some(Intent::Faq) => "→ questions about the shop",
            Some(Intent::ShoppingGuide) => "→ shopping guide",
            Some(_) => "I can only help with this shop. Type \"agent\" to talk to a person.",
            None => continue,
        };
        println!("{reply}");
    }
    Ok(())
}
