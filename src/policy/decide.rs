//! From a verdict and the state of a conversation to a decision.

use super::{
    Action, Cause, Conversation, Decision, Profile, ProfileError, State,
    keywords::{Canonical, Keywords},
    profile::{Command, DisabledIntent, FailMode, MediaAction, MediaKind},
    profile_error::Invalid,
    reading::{Best, Reading},
    replies::Replies,
};
use crate::{guard::Verdict, label::Flow};

/// Decides what the bot does with each message, by the rules of a [`Profile`].
///
/// What comes first decides:
///
/// 1. **Opting out.** After a keyword for "stop", everything is [`Action::Ignore`] until a keyword for "start" comes, which
///    routes to [`Flow::Faq`], or to the first flow of the profile where that is not served, or until
///    [`Conversation::resume`]. Time does not change it.
/// 2. **A person.** After [`Action::HandOff`], everything is handed off, until [`Conversation::resume`] or so many seconds
///    without a message as the profile says. Only a keyword for "stop" ends that: it always counts.
/// 3. **Keywords**, then **topics** of the profile. A keyword for "start" is an ordinary message where nobody opted out.
/// 4. **Empty** messages are ignored, and change nothing.
/// 5. **Out of scope.** The OOS score against the threshold of the profile or else of the model, for the flow the message is
///    most about, as the guard does it. A message beyond it by a hair's breadth is refused as any other: to ask back would
///    answer what must not be answered, and tell those who try how close they are. It is a strike. The strikes of a
///    conversation change the refusal to one that offers a person, and hand off in the end.
/// 6. **Disabled intents**, which are refused like out-of-scope messages or handed off. If a served flow is within
///    `ask_back_margin` of the disabled one, the message is routed to that. The label of a custom model is a disabled intent.
/// 7. **Low margin.** If two served flows are within `ask_back_margin` of each other, the bot asks back. It does not ask the
///    same question twice in a row: the second time the message is routed to the more probable one.
/// 8. Everything else is routed to the flow it is about.
///
/// A message of 6 to 8 that is not refused ends the row of strikes. Replies are in the language of the message, else in
/// the last known one of the conversation, else in that of the profile.
///
/// ```
/// # #[cfg(feature = "embedded")] {
/// use intentgate::{Flow, Guard, policy::{Action, Conversation, Policy, Profile}};
///
/// let guard = Guard::embedded()?;
/// let policy = Policy::new(Profile::default())?;
/// let mut conversation = Conversation::new();                           // one for each customer
/// let now = 1_700_000_000;                                              // Unix seconds
///
/// let text = "where is my parcel? it was due on monday";
/// let verdict = guard.check_message(conversation.flow(now), text);
/// let decision = policy.decide(&mut conversation, text, &verdict, now);
/// assert_eq!(decision.action, Action::Route { flow: Flow::Order });
///
/// let text = "write me a poem about the sea";
/// let verdict = guard.check_message(conversation.flow(now), text);
/// let decision = policy.decide(&mut conversation, text, &verdict, now);
/// assert_eq!(decision.action, Action::Refuse { offer_person: false });
/// assert_eq!(decision.reply.as_deref(), Some("Sorry, I can only help with matters of our business here."));
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Policy {
    profile: Profile,
    keywords: Keywords,
    replies: Replies,
}

impl Policy {
    /// Checks a profile and compiles its rules.
    ///
    /// # Errors
    /// [`ProfileError::Value`] when a value cannot be used. There is none for a profile that was just read.
    pub fn new(profile: Profile) -> Result<Self, ProfileError> {
        Ok(Self::build(profile)?)
    }

    pub(super) fn build(profile: Profile) -> Result<Self, Invalid> {
        profile.check()?;
        Ok(Policy { keywords: Keywords::new(&profile)?, replies: Replies::new(&profile)?, profile })
    }

    /// The rules.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    pub(super) fn into_profile(self) -> Profile {
        self.profile
    }

    /// Decides on a message. `text` is what the customer wrote, `verdict` what the guard says of it, best in the flow
    /// [`Conversation::flow`], and `now` the time in Unix seconds.
    pub fn decide(&self, conversation: &mut Conversation, text: &str, verdict: &Verdict, now: u64) -> Decision {
        self.decide_reading(conversation, text, &Reading::from(verdict), now)
    }

    fn decide_reading(&self, conversation: &mut Conversation, text: &str, reading: &Reading<'_>, now: u64) -> Decision {
        conversation.expire(now);
        if let Some(code) = reading.language.filter(|code| self.replies.language(code).is_some())
            && conversation.language() != Some(code)
        {
            conversation.language = Some(code.into());
        }
        let (action, cause) = self
            .by_rule(conversation, text, reading.language)
            .unwrap_or_else(|| self.by_reading(conversation, reading));
        self.finish(conversation, action, cause, now)
    }

    /// Decides on a message that the guard cannot answer: it is not loaded, or failed. Keywords and topics count as ever.
    pub fn decide_failed(&self, conversation: &mut Conversation, text: &str, now: u64) -> Decision {
        conversation.expire(now);
        let (action, cause) = self.by_rule(conversation, text, None).unwrap_or_else(|| {
            // The flow stays what it is: the bot goes on in it once the guard is back.
            let action = match self.profile.fail_mode {
                FailMode::Closed => hand_off(conversation),
                FailMode::Open(flow) => Action::Route { flow },
            };
            (action, Cause::GuardFailed)
        });
        self.finish(conversation, action, cause, now)
    }

    /// Decides on the reply to a button or list, which `map` turns from its id into what the customer asks for.
    ///
    /// An id that `map` does not know, from an older version of the bot for instance, is a message of
    /// [`MediaKind::Unknown`]. A flow that is not served is a disabled intent, but no strike: the customer did not make the
    /// button.
    pub fn decide_reply(
        &self,
        conversation: &mut Conversation,
        id: &str,
        map: impl FnOnce(&str) -> Option<Command>,
        now: u64,
    ) -> Decision {
        let Some(command) = map(id) else { return self.decide_media(conversation, MediaKind::Unknown, now) };
        conversation.expire(now);
        let (action, cause) = by_state(conversation, Some(command)).unwrap_or_else(|| match command {
            Command::Route(flow) if !self.profile.serves(flow) => match self.profile.disabled_intent {
                DisabledIntent::Refuse => (Action::Refuse { offer_person: false }, Cause::Disabled),
                DisabledIntent::HandOff => (hand_off(conversation), Cause::Disabled),
            },
            command => (self.obey(conversation, command), Cause::Structured),
        });
        self.finish(conversation, action, cause, now)
    }

    /// Decides on a message that is no text. One with a caption is better decided by [`Policy::decide`] on the caption.
    pub fn decide_media(&self, conversation: &mut Conversation, kind: MediaKind, now: u64) -> Decision {
        conversation.expire(now);
        let (action, cause) = by_state(conversation, None).unwrap_or_else(|| {
            let flow = conversation.flow.filter(|&flow| self.profile.serves(flow));
            let action = match (self.profile.media.get(kind), flow) {
                (MediaAction::ActiveFlow, Some(flow)) => Action::Route { flow },
                (MediaAction::ActiveFlow, None) | (MediaAction::Refuse, _) => Action::Refuse { offer_person: false },
                (MediaAction::HandOff, _) => hand_off(conversation),
                (MediaAction::Ignore, _) => Action::Ignore,
            };
            (action, Cause::Unsupported)
        });
        self.finish(conversation, action, cause, now)
    }

    /// The state of the conversation, keywords and topics: all that needs no verdict.
    fn by_rule(&self, conversation: &mut Conversation, text: &str, language: Option<&str>) -> Option<(Action, Cause)> {
        let text = Canonical::new(text);
        let rule = self.keywords.rule(&text, language);
        if let Some(decided) = by_state(conversation, rule.map(|rule| rule.command)) {
            return Some(decided);
        }
        if let Some(rule) = rule
            && (rule.command != Command::OptIn || conversation.state == State::OptedOut)
        {
            let cause = Cause::Keyword { rule: rule.name.clone() };
            return Some((self.obey(conversation, rule.command), cause));
        }
        let topic = self.keywords.topic(&text, language)?;
        Some((hand_off(conversation), Cause::Restricted { topic: topic.to_owned() }))
    }

    /// What a customer explicitly asked for.
    fn obey(&self, conversation: &mut Conversation, command: Command) -> Action {
        match command {
            Command::Route(flow) => route(conversation, flow),
            Command::HandOff => hand_off(conversation),
            Command::OptOut => {
                conversation.enter(State::OptedOut);
                Action::Ignore
            }
            Command::OptIn => {
                conversation.resume();
                let first = self.profile.intents.first().copied().unwrap_or(Flow::Faq);
                route(conversation, if self.profile.serves(Flow::Faq) { Flow::Faq } else { first })
            }
        }
    }

    fn by_reading(&self, conversation: &mut Conversation, reading: &Reading<'_>) -> (Action, Cause) {
        if reading.best == Best::Nothing {
            return (Action::Ignore, Cause::Empty);
        }
        let asked = conversation.asked.take();
        let accepts = |flow: Flow| match *self.profile.thresholds.get(flow) {
            // A score of 1 is that of a broken model, which lets nothing through.
            Some(threshold) => reading.oos_score <= threshold && reading.oos_score < 1.0,
            None => reading.in_scope,
        };
        let accepted = match reading.best {
            Best::Flow(flow) => accepts(flow),
            _ => reading.in_scope,
        };
        if !accepted {
            return self.refuse(conversation, Cause::OutOfScope);
        }
        let Best::Flow(best) = reading.best else { return self.refuse_disabled(conversation) };
        let score = |flow: Flow| reading.flows[flow as usize];
        // Another served flow that the message may be about as well.
        let rival = (self.profile.intents.iter().copied())
            .filter(|&flow| flow != best && accepts(flow) && score(best) - score(flow) < self.profile.ask_back_margin)
            .max_by(|&a, &b| score(a).total_cmp(&score(b)));
        match (self.profile.serves(best), rival) {
            (true, None) => (route(conversation, best), Cause::Confident),
            (true, Some(rival)) if asked.is_some_and(|pair| pair.contains(&best) && pair.contains(&rival)) => {
                (route(conversation, best), Cause::LowMargin)
            }
            (true, Some(rival)) => {
                conversation.strikes = 0;
                conversation.asked = Some([best, rival]);
                (Action::AskBack { between: [best, rival] }, Cause::LowMargin)
            }
            (false, Some(served)) => (route(conversation, served), Cause::LowMargin),
            (false, None) => self.refuse_disabled(conversation),
        }
    }

    fn refuse_disabled(&self, conversation: &mut Conversation) -> (Action, Cause) {
        match self.profile.disabled_intent {
            DisabledIntent::Refuse => self.refuse(conversation, Cause::Disabled),
            DisabledIntent::HandOff => (hand_off(conversation), Cause::Disabled),
        }
    }

    /// Refuses as sternly as the strikes, this one counted, tell it to.
    fn refuse(&self, conversation: &mut Conversation, cause: Cause) -> (Action, Cause) {
        let count = conversation.strikes.saturating_add(1);
        conversation.strikes = count;
        let reached = |limit: u32| limit > 0 && count >= limit;
        if reached(self.profile.hand_off_after) {
            (hand_off(conversation), Cause::Strikes { count })
        } else {
            (Action::Refuse { offer_person: reached(self.profile.offer_person_after) }, cause)
        }
    }

    /// Notes the message, and finds the words for the decision.
    fn finish(&self, conversation: &mut Conversation, action: Action, cause: Cause, now: u64) -> Decision {
        let seconds = match conversation.state {
            State::WithPerson => self.profile.person_seconds,
            _ => self.profile.idle_seconds,
        };
        conversation.touch(now, seconds);
        let texts = conversation
            .language()
            .and_then(|code| self.replies.language(code))
            .unwrap_or_else(|| self.replies.default_language());
        let reply = match action {
            Action::AskBack { between } => Some(texts.ask_back(between)),
            Action::Refuse { .. } if cause == Cause::Unsupported => Some(texts.text_only.clone()),
            Action::Refuse { offer_person: true } => Some(texts.refusal_with_offer.clone()),
            Action::Refuse { offer_person: false } => Some(texts.refusal.clone()),
            // Announced once.
            Action::HandOff if cause != Cause::WithPerson => Some(texts.hand_off.clone()),
            Action::Route { .. } | Action::HandOff | Action::Ignore => None,
        };
        let reply_language = reply.is_some().then(|| texts.code.clone());
        Decision { action, cause, reply, reply_language }
    }
}

/// What is decided by who has the conversation, whatever the message but for the `command` in it.
fn by_state(conversation: &Conversation, command: Option<Command>) -> Option<(Action, Cause)> {
    match (conversation.state, command) {
        (State::WithBot, _) | (_, Some(Command::OptOut)) | (State::OptedOut, Some(Command::OptIn)) => None,
        (State::WithPerson, _) => Some((Action::HandOff, Cause::WithPerson)),
        (State::OptedOut, _) => Some((Action::Ignore, Cause::OptedOut)),
    }
}

fn route(conversation: &mut Conversation, flow: Flow) -> Action {
    (conversation.flow, conversation.strikes, conversation.asked) = (Some(flow), 0, None);
    Action::Route { flow }
}

fn hand_off(conversation: &mut Conversation) -> Action {
    conversation.enter(State::WithPerson);
    Action::HandOff
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Media, PerFlow};
    use proptest::{prelude::*, sample::select};

    const NOW: u64 = 1_700_000_000;

    fn policy(toml: &str) -> Policy {
        Policy::new(Profile::from_toml(toml).unwrap()).unwrap()
    }

    /// A clear message about `flow`.
    fn clear(flow: Flow) -> Reading<'static> {
        let mut flows = [0.02; 4];
        flows[flow as usize] = 0.9;
        Reading { best: Best::Flow(flow), flows, in_scope: true, oos_score: 0.1, language: Some("en") }
    }

    /// One that is about `first` as much as about `second`, or nearly so.
    fn torn(first: Flow, second: Flow) -> Reading<'static> {
        let mut reading = clear(first);
        (reading.flows[first as usize], reading.flows[second as usize]) = (0.45, 0.43);
        reading
    }

    fn far() -> Reading<'static> {
        Reading { in_scope: false, oos_score: 0.9, ..clear(Flow::Faq) }
    }

    /// A policy and a conversation under it.
    struct Chat {
        policy: Policy,
        conversation: Conversation,
        now: u64,
    }

    impl Chat {
        fn new(toml: &str) -> Self {
            Chat { policy: policy(toml), conversation: Conversation::new(), now: NOW }
        }

        fn say(&mut self, text: &str, reading: &Reading<'_>) -> (Action, Cause) {
            let Decision { action, cause, .. } =
                self.policy.decide_reading(&mut self.conversation, text, reading, self.now);
            (action, cause)
        }
    }

    const FAQ: Action = Action::Route { flow: Flow::Faq };
    const ORDER: Action = Action::Route { flow: Flow::Order };

    fn refuse(offer_person: bool, cause: Cause) -> (Action, Cause) {
        (Action::Refuse { offer_person }, cause)
    }

    fn keyword(rule: &str) -> Cause {
        Cause::Keyword { rule: rule.into() }
    }

    #[test]
    fn strikes_offer_a_person_then_hand_off_and_end_on_topic() {
        let mut chat = Chat::new("");
        for _ in 0..2 {
            assert_eq!(chat.say("x", &far()), refuse(false, Cause::OutOfScope));
            assert_eq!(chat.say("x", &far()), refuse(true, Cause::OutOfScope));
            assert_eq!(chat.say("x", &clear(Flow::Order)), (ORDER, Cause::Confident));
            assert_eq!(chat.conversation.strikes(), 0);
        }
        for _ in 0..3 {
            chat.say("x", &far());
        }
        assert_eq!(chat.say("x", &far()), (Action::HandOff, Cause::Strikes { count: 4 }));
        assert_eq!(chat.say("x", &clear(Flow::Order)), (Action::HandOff, Cause::WithPerson));
        chat.conversation.resume();
        assert_eq!(chat.say("x", &far()), refuse(false, Cause::OutOfScope));
        chat.now += 1800;
        assert_eq!(chat.say("x", &far()), refuse(false, Cause::OutOfScope), "the first strike was forgotten");
        let mut chat = Chat::new("offer_person_after = 0\nhand_off_after = 0");
        for _ in 0..9 {
            assert_eq!(chat.say("x", &far()), refuse(false, Cause::OutOfScope));
        }
    }

    #[test]
    fn a_person_keeps_the_conversation_until_it_expires() {
        let mut chat = Chat::new("person_seconds = 100");
        assert_eq!(chat.say("Agent!", &far()), (Action::HandOff, keyword("person")));
        for _ in 0..3 {
            chat.now += 99;
            assert_eq!(chat.say("agent", &far()), (Action::HandOff, Cause::WithPerson));
        }
        chat.now += 100;
        assert_eq!(chat.say("x", &clear(Flow::Faq)), (FAQ, Cause::Confident));
    }

    #[test]
    fn stop_lasts_until_start() {
        let mut chat = Chat::new("");
        assert_eq!(chat.say("start", &clear(Flow::Order)), (ORDER, Cause::Confident), "nobody opted out");
        chat.say("agent", &far());
        assert_eq!(chat.say("STOP", &clear(Flow::Faq)), (Action::Ignore, keyword("stop")));
        chat.now += 365 * 86400;
        assert_eq!(chat.say("stop my order", &clear(Flow::Order)), (Action::Ignore, Cause::OptedOut));
        assert_eq!(chat.say("agent", &far()), (Action::Ignore, Cause::OptedOut));
        assert_eq!(chat.policy.decide_media(&mut chat.conversation, MediaKind::Image, NOW).action, Action::Ignore);
        assert_eq!(chat.policy.decide_failed(&mut chat.conversation, "hello", NOW).cause, Cause::OptedOut);
        assert_eq!(chat.say("Start.", &far()), (FAQ, keyword("start")));
        assert_eq!(chat.say("stop my order", &clear(Flow::Order)), (ORDER, Cause::Confident));
        let mut chat = Chat::new("intents = ['order']");
        chat.say("stop", &far());
        assert_eq!(chat.say("start", &far()).0, ORDER, "faq is not served");
    }

    #[test]
    fn asks_back_once_for_each_pair() {
        let (order, faq) = (Flow::Order, Flow::Faq);
        let mut chat = Chat::new("");
        chat.say("x", &far());
        let ask = (Action::AskBack { between: [order, faq] }, Cause::LowMargin);
        assert_eq!(chat.say("x", &torn(order, faq)), ask);
        assert_eq!(chat.conversation.strikes(), 0);
        assert_eq!(chat.say("x", &torn(faq, order)), (FAQ, Cause::LowMargin));
        assert_eq!(chat.say("x", &torn(order, faq)), ask, "after an answer it may ask again");
        let other = Action::AskBack { between: [order, Flow::Appointment] };
        assert_eq!(chat.say("x", &torn(order, Flow::Appointment)).0, other, "another question");
        let mut chat = Chat::new("ask_back_margin = 0");
        assert_eq!(chat.say("x", &torn(order, faq)), (ORDER, Cause::Confident));
    }

    #[test]
    fn intents_that_are_not_served() {
        let faq_only = "intents = ['faq']";
        let mut chat = Chat::new(faq_only);
        assert_eq!(chat.say("x", &clear(Flow::Order)), refuse(false, Cause::Disabled));
        assert_eq!(chat.say("x", &clear(Flow::Order)), refuse(true, Cause::Disabled));
        assert_eq!(chat.say("x", &torn(Flow::Order, Flow::Faq)), (FAQ, Cause::LowMargin));
        let custom = Reading { best: Best::Custom, ..clear(Flow::Faq) };
        assert_eq!(chat.say("x", &custom), refuse(false, Cause::Disabled));
        assert_eq!(chat.say("x", &Reading { in_scope: false, ..custom.clone() }), refuse(true, Cause::OutOfScope));
        let mut chat = Chat::new("intents = ['faq']\ndisabled_intent = 'hand_off'");
        assert_eq!(chat.say("x", &custom), (Action::HandOff, Cause::Disabled));
    }

    #[test]
    fn thresholds_of_the_profile_stand_over_those_of_the_model() {
        let mut chat = Chat::new("[thresholds]\norder = 0.3\nfaq = 0.95\nappointment = 1");
        let order = |oos_score, in_scope| Reading { oos_score, in_scope, ..clear(Flow::Order) };
        assert_eq!(chat.say("x", &order(0.3, false)).0, ORDER);
        assert_eq!(chat.say("x", &order(0.31, true)).1, Cause::OutOfScope);
        assert_eq!(chat.say("x", &far()).0, FAQ);
        let broken = Reading { oos_score: 1.0, in_scope: false, ..clear(Flow::Appointment) };
        assert_eq!(chat.say("x", &broken).1, Cause::OutOfScope);
        assert_eq!(chat.say("x", &Reading { in_scope: false, ..clear(Flow::ShoppingGuide) }).1, Cause::OutOfScope);
    }

    #[test]
    fn topics_and_keywords_come_before_the_verdict() {
        let mut chat = Chat::new(
            "[[topics]]\nname = 'medicine'\nwords = ['antibiotic*']\n\
             [[keywords]]\nname = 'menu'\naction = { route = 'faq' }\nwords = ['menu']",
        );
        assert_eq!(chat.say("MENU!", &far()), (FAQ, keyword("menu")));
        let restricted = (Action::HandOff, Cause::Restricted { topic: "medicine".into() });
        assert_eq!(chat.say("2 packs of Antibiotics", &clear(Flow::Order)), restricted);
        chat.conversation.resume();
        let failed = chat.policy.decide_failed(&mut chat.conversation, "antibiotics?", NOW);
        assert_eq!((failed.action, failed.cause), restricted);
    }

    #[test]
    fn empty_messages_change_nothing() {
        let mut chat = Chat::new("");
        chat.say("x", &far());
        chat.say("x", &torn(Flow::Order, Flow::Faq));
        let before = chat.conversation.clone();
        let empty = Reading { best: Best::Nothing, flows: [0.0; 4], in_scope: false, oos_score: 0.0, language: None };
        assert_eq!(chat.say(" ", &empty), (Action::Ignore, Cause::Empty));
        assert_eq!(chat.conversation, before);
    }

    #[test]
    fn a_guard_that_fails() {
        let mut chat = Chat::new("");
        assert_eq!(chat.policy.decide_failed(&mut chat.conversation, "x", NOW).action, Action::HandOff);
        let mut chat = Chat::new("fail_mode = { open = 'faq' }");
        chat.say("x", &clear(Flow::Order));
        let decision = chat.policy.decide_failed(&mut chat.conversation, "x", NOW);
        assert_eq!((decision.action, decision.cause), (FAQ, Cause::GuardFailed));
        assert_eq!(chat.conversation.flow(NOW), Some(Flow::Order));
    }

    #[test]
    fn buttons_and_media() {
        let mut chat = Chat::new("intents = ['order', 'faq']\n[media]\ndocument = 'hand_off'");
        let reply = |chat: &mut Chat, command| {
            let decision = chat.policy.decide_reply(&mut chat.conversation, "id", |_| command, NOW);
            (decision.action, decision.cause)
        };
        let media = |chat: &mut Chat, kind| chat.policy.decide_media(&mut chat.conversation, kind, NOW);
        assert_eq!(media(&mut chat, MediaKind::Image).action, Action::Refuse { offer_person: false }, "no flow");
        assert_eq!(reply(&mut chat, Some(Command::Route(Flow::Order))), (ORDER, Cause::Structured));
        let photo = media(&mut chat, MediaKind::Image);
        assert_eq!((photo.action, photo.cause, photo.reply), (ORDER, Cause::Unsupported, None));
        let voice = media(&mut chat, MediaKind::Voice);
        assert!(voice.reply.unwrap().contains("text messages"));
        assert_eq!(media(&mut chat, MediaKind::Sticker).action, Action::Ignore);
        let appointment = Some(Command::Route(Flow::Appointment));
        assert_eq!(reply(&mut chat, appointment), refuse(false, Cause::Disabled));
        assert_eq!(reply(&mut chat, None), refuse(false, Cause::Unsupported));
        assert_eq!(chat.conversation.strikes(), 0);
        assert_eq!(media(&mut chat, MediaKind::Document).action, Action::HandOff);
        assert_eq!(reply(&mut chat, Some(Command::Route(Flow::Order))), (Action::HandOff, Cause::WithPerson));
        assert_eq!(reply(&mut chat, Some(Command::OptOut)), (Action::Ignore, Cause::Structured));
        assert_eq!(reply(&mut chat, Some(Command::HandOff)), (Action::Ignore, Cause::OptedOut));
        assert_eq!(reply(&mut chat, Some(Command::OptIn)), (FAQ, Cause::Structured));
    }

    #[test]
    fn replies_are_in_the_last_known_language() {
        let policy = policy("language = 'fr'");
        let mut conversation = Conversation::new();
        let mut language = |language| {
            let decision = policy.decide_reading(&mut conversation, "x", &Reading { language, ..far() }, NOW);
            conversation.strikes = 0;
            decision.reply_language.unwrap()
        };
        assert_eq!(language(None), "fr");
        assert_eq!(language(Some("sv")), "fr", "there are no texts in Swedish");
        assert_eq!(language(Some("pt-BR")), "pt");
        assert_eq!(language(None), "pt");
        assert_eq!(language(Some("zh-Hant")), "zh-Hant");
    }

    #[derive(Clone, Debug)]
    enum Event {
        Message(&'static str, Reading<'static>),
        Failed(&'static str),
        Reply(Option<Command>),
        Media(MediaKind),
        Resume,
        Wait(u64),
    }

    fn flows() -> impl Strategy<Value = Flow> {
        select(Flow::ALL.to_vec())
    }

    fn readings() -> impl Strategy<Value = Reading<'static>> {
        let best = prop_oneof![8 => flows().prop_map(Best::Flow), 1 => Just(Best::Custom), 1 => Just(Best::Nothing)];
        let languages = select(vec![None, Some("en"), Some("de"), Some("zh-Hant"), Some("sv")]);
        (best, prop::array::uniform4(0.0f32..=0.5), any::<bool>(), 0.0f32..=1.0, languages).prop_map(
            |(best, flows, in_scope, oos_score, language)| Reading { best, flows, in_scope, oos_score, language },
        )
    }

    fn commands() -> impl Strategy<Value = Command> {
        prop_oneof![
            3 => flows().prop_map(Command::Route),
            1 => select(vec![Command::HandOff, Command::OptOut, Command::OptIn])
        ]
    }

    fn media_actions() -> impl Strategy<Value = MediaAction> {
        select(vec![MediaAction::ActiveFlow, MediaAction::Refuse, MediaAction::HandOff, MediaAction::Ignore])
    }

    fn events() -> impl Strategy<Value = Event> {
        let texts =
            || prop_oneof![12 => Just("x"), 1 => Just("stop"), 1 => Just("start"), 1 => Just("agent"), 1 => Just("rx")];
        let kinds = select(vec![MediaKind::Image, MediaKind::Voice, MediaKind::Unknown]);
        prop_oneof![
            12 => (texts(), readings()).prop_map(|(text, reading)| Event::Message(text, reading)),
            1 => texts().prop_map(Event::Failed),
            2 => prop::option::of(commands()).prop_map(Event::Reply),
            1 => kinds.prop_map(Event::Media),
            1 => Just(Event::Resume),
            1 => (0u64..200).prop_map(Event::Wait),
        ]
    }

    fn profiles() -> impl Strategy<Value = Profile> {
        let intents = prop::sample::subsequence(Flow::ALL.to_vec(), 1..=4).prop_shuffle();
        let thresholds = prop::array::uniform4(prop::option::of(0.0f32..=1.0));
        (intents, any::<[bool; 2]>(), select(vec![0.0f32, 0.1, 1.0]), 0u32..3, 0u32..3, thresholds, media_actions())
            .prop_map(|(intents, [hand_off, open], ask_back_margin, offer_person_after, more, thresholds, media)| {
                let [order, appointment, faq, shopping_guide] = thresholds;
                Profile {
                    disabled_intent: if hand_off { DisabledIntent::HandOff } else { DisabledIntent::Refuse },
                    fail_mode: if open { FailMode::Open(intents[0]) } else { FailMode::Closed },
                    intents,
                    ask_back_margin,
                    offer_person_after,
                    hand_off_after: if more == 0 { 0 } else { offer_person_after + more },
                    idle_seconds: 100,
                    person_seconds: 150,
                    topics: vec![crate::policy::Topic {
                        name: "medicine".into(),
                        words: crate::policy::Words::All(vec!["rx".into()]),
                    }],
                    thresholds: PerFlow { order, appointment, faq, shopping_guide },
                    media: Media { image: media, unknown: media, ..Media::default() },
                    ..Profile::default()
                }
            })
    }

    proptest! {
        #[test]
        fn any_history_under_any_profile(
            profile in profiles(), other in profiles(), events in prop::collection::vec(events(), 1..40)
        ) {
            let policies = [Policy::new(profile).unwrap(), Policy::new(other).unwrap()];
            let (mut conversation, mut now, mut asked) = (Conversation::new(), NOW, None);
            for (n, event) in events.iter().enumerate() {
                // The profile is replaced halfway.
                let policy = &policies[usize::from(n > 20)];
                let mut fresh = conversation.clone();
                fresh.expire(now);
                if fresh != conversation {
                    asked = None;
                }
                let (state, strikes) = (fresh.state, fresh.strikes);
                let decision = match event {
                    Event::Message(text, reading) => policy.decide_reading(&mut conversation, text, reading, now),
                    Event::Failed(text) => policy.decide_failed(&mut conversation, text, now),
                    Event::Reply(command) => policy.decide_reply(&mut conversation, "id", |_| *command, now),
                    Event::Media(kind) => policy.decide_media(&mut conversation, *kind, now),
                    Event::Resume => { conversation.resume(); asked = None; continue }
                    Event::Wait(seconds) => { now += seconds; continue }
                };
                let Decision { action, cause, reply, reply_language } = &decision;

                let served = |flow: Flow| policy.profile.serves(flow);
                match *action {
                    Action::Route { flow } => prop_assert!(served(flow), "{decision:?}"),
                    Action::AskBack { between: [first, second] } => {
                        prop_assert!(served(first) && served(second) && first != second);
                        prop_assert!(asked != Some([first, second]) && asked != Some([second, first]));
                    }
                    _ => {}
                }
                match (action, cause) {
                    (Action::AskBack { between }, _) => asked = Some(*between),
                    // Nothing that the bot said to the customer came between.
                    (_, Cause::Empty | Cause::Unsupported | Cause::GuardFailed) if conversation.state == State::WithBot => {}
                    _ => asked = None,
                }
                if matches!(cause, Cause::Confident | Cause::LowMargin) {
                    prop_assert_eq!(conversation.strikes(), 0);
                }
                if conversation.strikes() > 0 {
                    let limit = policy.profile.hand_off_after;
                    prop_assert!(limit == 0 || conversation.strikes() < limit || conversation.strikes() <= strikes);
                }

                let stop = matches!(event, Event::Message("stop", _) | Event::Failed("stop") | Event::Reply(Some(Command::OptOut)));
                let start = matches!(event, Event::Message("start", _) | Event::Failed("start") | Event::Reply(Some(Command::OptIn)));
                let start_cause = keyword("start");
                match state {
                    _ if stop => prop_assert!(*action == Action::Ignore && conversation.state == State::OptedOut),
                    State::WithPerson => prop_assert_eq!((action, cause), (&Action::HandOff, &Cause::WithPerson)),
                    State::OptedOut if start => prop_assert_eq!(cause, if matches!(event, Event::Reply(_)) { &Cause::Structured } else { &start_cause }),
                    State::OptedOut => prop_assert_eq!((action, cause), (&Action::Ignore, &Cause::OptedOut)),
                    State::WithBot => {}
                }
                prop_assert_eq!(*action == Action::HandOff, conversation.state == State::WithPerson);

                // What is said depends on action, kind of cause and language alone.
                let texts = policy.replies.language(reply_language.as_deref().unwrap_or("en")).unwrap();
                let expected = match action {
                    Action::Refuse { .. } if *cause == Cause::Unsupported => Some(texts.text_only.clone()),
                    Action::Refuse { offer_person: true } => Some(texts.refusal_with_offer.clone()),
                    Action::Refuse { offer_person: false } => Some(texts.refusal.clone()),
                    Action::HandOff if *cause != Cause::WithPerson => Some(texts.hand_off.clone()),
                    Action::AskBack { between } => Some(texts.ask_back(*between)),
                    _ => None,
                };
                prop_assert_eq!(reply, &expected);
                prop_assert_eq!(reply.is_some(), reply_language.is_some());
                let spoken = texts.code == conversation.language().unwrap_or("en");
                prop_assert!(reply.is_none() || spoken, "{decision:?}");

                let json = serde_json::to_string(&conversation).unwrap();
                prop_assert_eq!(&serde_json::from_str::<Conversation>(&json).unwrap(), &conversation);
                let json = serde_json::to_string(&decision).unwrap();
                prop_assert_eq!(&serde_json::from_str::<Decision>(&json).unwrap(), &decision);
            }
        }

        #[test]
        fn profiles_come_back_from_toml(profile in profiles()) {
            prop_assert_eq!(Profile::from_toml(&profile.to_toml().unwrap()).unwrap(), profile);
        }
    }
}
