//! A terminal bot with its four flows stubbed: routing, refusal, asking back and handing off by a profile, and an audit log
//! of it all.
//!
//! `cargo run --release --no-default-features --features embedded,policy --example chat -- [PROFILE.toml [LOG_DIRECTORY]]`
//!
//! Every line is a message. `/image` sends a photo, `/button appointment` taps a button, `/resume` is the person who gives
//! the conversation back to the bot.

use intentgate::{
    Flow, Guard,
    audit::{Event, Key, Log, LogOptions, Recorder, TextPolicy},
    policy::{Action, Command, Conversation, Decision, MediaKind, Policy, Profile},
};
use std::{
    env,
    error::Error,
    io::{self, BufRead, IsTerminal, Write},
    process::ExitCode,
    time::{Instant, SystemTime},
};

fn main() -> ExitCode {
    match chat() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn chat() -> Result<(), Box<dyn Error>> {
    let profile = match env::args_os().nth(1) {
        Some(path) => Profile::from_file(path)?,
        None => Profile::default(),
    };
    // A bot with many customers puts a queue in between: `intentgate::audit::queue`.
    let mut log = match env::args_os().nth(2) {
        Some(dir) => {
            let (log, torn) = Log::open(dir, LogOptions::default())?;
            if let Some(torn) = torn {
                eprintln!("{}: {} bytes of an unfinished record removed", torn.file.display(), torn.bytes);
            }
            Some(log)
        }
        None => None,
    };
    // A server has a secret of random bytes, which it keeps elsewhere than the log.
    let recorder = Recorder::new(Key::new(b"a secret for this example alone")?, TextPolicy::Redact);
    let (guard, policy) = (Guard::embedded()?, Policy::new(profile)?);
    // A server keeps one for each customer, as JSON in its store.
    let mut conversation = Conversation::new();

    prompt()?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let begin = Instant::now();
        let flow = conversation.flow(now);
        let (decision, verdict, seen) = match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
            ("/resume", _) => {
                conversation.resume();
                prompt()?;
                continue;
            }
            ("/image", _) => {
                (policy.decide_media(&mut conversation, MediaKind::Image, now), None, "a photo".to_owned())
            }
            ("/button", id) => {
                let map = |id: &str| match id {
                    "agent" => Some(Command::HandOff),
                    flow => flow.parse().ok().map(Command::Route),
                };
                (policy.decide_reply(&mut conversation, id, map, now), None, format!("the button {id:?}"))
            }
            _ => {
                let verdict = guard.check_message(flow, &line);
                let decision = policy.decide(&mut conversation, &line, &verdict, now);
                let (label, language) = (verdict.label().unwrap_or("-"), verdict.language());
                let (confidence, oos) = (verdict.confidence(), verdict.oos_score());
                let seen = format!("{label} {confidence:.2}, oos {oos:.2}, {language}");
                (decision, Some(verdict), seen)
            }
        };
        let micros = begin.elapsed().as_micros();
        // Before the answer: what was answered is in the log, whatever happens next.
        if let Some(log) = &mut log {
            log.append(&recorder.record(&Event {
                time: SystemTime::now(),
                conversation: "terminal",
                flow,
                text: &line,
                verdict: verdict.as_ref(),
                decision: &decision,
                guard: guard.config(),
                profile: Some(policy.profile()),
                micros: Some(micros as u32),
            }))?;
        }
        if let Some(answer) = answer(&decision) {
            println!("{answer}");
        }
        let Decision { action, cause, .. } = &decision;
        println!(
            "{}",
            dim(&format!("{seen} -> {action:?}, {cause:?}, {} strikes, {micros} µs", conversation.strikes()))
        );
        prompt()?;
    }
    Ok(())
}

/// What the customer reads: the words of the policy, or those of the flow.
fn answer(decision: &Decision) -> Option<&str> {
    match decision.action {
        Action::Route { flow } => Some(match flow {
            Flow::Order => "[order] Your order number, please?",
            Flow::Appointment => "[appointment] Which day suits you?",
            Flow::Faq => "[faq] We are open from 9 to 6. What would you like to know?",
            Flow::ShoppingGuide => "[shopping guide] What is it for, and what may it cost?",
        }),
        _ => decision.reply.as_deref(),
    }
}

/// Only a terminal is asked for more.
fn prompt() -> io::Result<()> {
    if io::stdin().is_terminal() {
        print!("> ");
        io::stdout().flush()?;
    }
    Ok(())
}

fn dim(text: &str) -> String {
    if io::stdout().is_terminal() { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
}
