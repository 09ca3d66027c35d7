//! The dialog with a technician: a pure state machine. A key makes of a [`Dialog`] the next one, and at some point an [`Answer`].
//!
//! ```text
//! language -> association -> profile -> number (-> no label? / which of two?) -> Answer::Chosen
//! plan -> the word -> Answer::Confirmed          plan, Left -> Answer::Declined
//! reasons -> Answer::Anew
//! everywhere: F1 help, Esc "leave?" -> Answer::Left
//! ```
//!
//! Nothing is confirmed but by [`Page::Confirm`] with the word typed, and nothing that loses data is ever selected beforehand. What was
//! answered stays in [`Answers`] when somebody goes back, also to another run.

use akene_protocol::inventory::Inventory;
use akene_protocol::{AssetNumber, Bytes, Issue, Language};

use super::keys::Key;
use super::number::{self, Typo};
use super::outlook::Outlook;
use super::words::Text;
use crate::run::technician::{Choice, Offered};

/// Characters of an association's name at most.
const LONGEST_NAME: usize = 60;

/// Characters of a word at most; more is noise.
const LONGEST_WORD: usize = 20;

/// What was answered so far. It outlives a dialog.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// The language chosen.
    pub language: Option<Language>,
    /// The association.
    pub association: Option<String>,
    /// The profile's name.
    pub profile: Option<String>,
    /// The number as it was typed.
    pub number: String,
}

/// What a dialog is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Matter {
    /// What the machine is to become.
    Choose {
        /// Associations to choose from.
        associations: Vec<String>,
        /// Profiles to choose from.
        profiles: Vec<Offered>,
        /// The number the disks say.
        known: Option<AssetNumber>,
        /// What kind of computer it is.
        machine: String,
    },
    /// Whether a plan is carried out.
    Confirm(Box<Outlook>),
    /// Why it does not go on.
    Tell(Vec<Issue>),
}

/// What is on the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is a question of the same name")]
pub enum Page {
    Language,
    Association,
    /// The association's name is typed, there is no list.
    AssociationTyped,
    Profile,
    Number,
    /// Whether there is really no label.
    Unlabelled,
    /// The label does not say what the disk says.
    Two(AssetNumber),
    Plan,
    Confirm,
    Refused,
    /// Whether to leave.
    Leave,
    Help,
}

/// How a dialog ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The questions are answered.
    Chosen(Choice),
    /// The plan is to be carried out.
    Confirmed,
    /// It is not, the questions are to be asked again.
    Declined,
    /// The reasons were read, the questions are to be asked again.
    Anew,
    /// The machine is to restart.
    Left,
}

/// The state.
#[derive(Clone, Debug, PartialEq)]
pub struct Dialog {
    pub(super) site: String,
    pub(super) language: Language,
    pub(super) matter: Matter,
    pub(super) answers: Answers,
    pub(super) page: Page,
    /// Where Help and Leave were called from.
    under: Vec<(Page, usize)>,
    /// The line of a list that is marked.
    pub(super) cursor: usize,
    /// What is typed into the field of this page.
    pub(super) input: String,
    /// Lines that are scrolled off at the top.
    pub(super) scroll: usize,
    /// What is wrong with the last key.
    pub(super) remark: Option<Text>,
    /// Characters came in where none is asked for: the Enter behind them is a scanner's.
    stray: bool,
}

impl Dialog {
    /// Asks what a machine is to become.
    pub fn choose(
        site: &str,
        language: Language,
        answers: Answers,
        (associations, profiles): (&[String], &[Offered]),
        known: Option<AssetNumber>,
        inventory: &Inventory,
    ) -> Dialog {
        let matter = Matter::Choose {
            associations: associations.to_vec(),
            profiles: profiles.to_vec(),
            known,
            machine: machine(inventory),
        };
        // Who comes back from the plan knows the language, and wants most probably another profile.
        let first = if answers.profile.is_some() { Page::Profile } else { Page::Language };
        Dialog::begin(site, language, matter, answers, first)
    }

    /// Shows a plan and asks whether it is carried out.
    pub fn confirm(site: &str, language: Language, answers: Answers, outlook: Outlook) -> Dialog {
        Dialog::begin(site, language, Matter::Confirm(Box::new(outlook)), answers, Page::Plan)
    }

    /// Says why it does not go on.
    pub fn tell(site: &str, language: Language, answers: Answers, issues: &[Issue]) -> Dialog {
        Dialog::begin(site, language, Matter::Tell(issues.to_vec()), answers, Page::Refused)
    }

    fn begin(site: &str, language: Language, matter: Matter, answers: Answers, first: Page) -> Dialog {
        let mut dialog = Dialog {
            site: site.to_owned(),
            language: answers.language.unwrap_or(language),
            matter,
            answers,
            page: Page::Help,
            under: Vec::new(),
            cursor: 0,
            input: String::new(),
            scroll: 0,
            remark: None,
            stray: false,
        };
        dialog.go(first);
        dialog
    }

    /// What was answered so far.
    pub fn answers(&self) -> &Answers {
        &self.answers
    }

    /// What is on the screen.
    pub fn page(&self) -> &Page {
        &self.page
    }

    /// The language spoken.
    pub fn language(&self) -> Language {
        self.language
    }

    /// The word that has to be typed.
    pub fn word(&self) -> &'static str {
        let loses = matches!(&self.matter, Matter::Confirm(outlook) if outlook.loses());
        if loses { Text::WordDelete } else { Text::WordBegin }.get(self.language)
    }

    /// Lines that can be scrolled off where there is least room; more would only have to be scrolled back.
    pub fn limit_scroll(&mut self, most: usize) {
        self.scroll = self.scroll.min(most);
    }

    /// Number of this question, from 1, and how many there are. `None`: it is none.
    pub(super) fn step(&self) -> Option<(usize, usize)> {
        let step = match self.page {
            Page::Language => 1,
            Page::Association | Page::AssociationTyped => 2,
            Page::Profile => 3,
            Page::Number | Page::Unlabelled | Page::Two(_) => 4,
            Page::Plan => 5,
            Page::Confirm => 6,
            Page::Refused | Page::Leave | Page::Help => return None,
        };
        Some((step, 6))
    }

    /// The page that Help explains.
    pub(super) fn explained(&self) -> &Page {
        self.under.last().map_or(&self.page, |(page, _)| page)
    }

    /// What can be chosen from on this page. Empty: it is no list.
    pub(super) fn options(&self) -> Vec<String> {
        let say = |text: Text| text.get(self.language).to_owned();
        match (&self.page, &self.matter) {
            (Page::Language, _) => vec![say(Text::English), say(Text::French)],
            (Page::Association, Matter::Choose { associations, .. }) => associations.clone(),
            (Page::Profile, Matter::Choose { profiles, .. }) => {
                profiles.iter().map(|p| p.title.clone().unwrap_or_else(|| p.name.clone())).collect()
            }
            (Page::Unlabelled, _) => vec![say(Text::UnlabelledYes), say(Text::NumberAgain)],
            (Page::Two(typed), Matter::Choose { known, .. }) => {
                let disk = known.map(|known| format!("{known} {}", say(Text::TwoDisk)));
                let label = format!("{typed} {}", say(Text::TwoLabel));
                [Some(say(Text::NumberAgain)), disk, Some(label)].into_iter().flatten().collect()
            }
            (Page::Refused, _) => vec![say(Text::Anew), say(Text::Leave)],
            (Page::Leave, _) => vec![say(Text::Stay), say(Text::Leave)],
            _ => vec![],
        }
    }

    /// The size of the profile at a place of the list.
    pub(super) fn size_of(&self, option: usize) -> Option<Bytes> {
        match (&self.page, &self.matter) {
            (Page::Profile, Matter::Choose { profiles, .. }) => {
                profiles.get(option).map(|p| p.size).filter(|size| *size > Bytes(0))
            }
            _ => None,
        }
    }

    /// The longest text the field of this page takes. `None`: it has none.
    fn field(&self) -> Option<usize> {
        match self.page {
            Page::AssociationTyped => Some(LONGEST_NAME),
            Page::Number => Some(number::LONGEST),
            Page::Confirm => Some(LONGEST_WORD),
            _ => None,
        }
    }

    /// Whether this page has a field to type into.
    pub(super) fn has_field(&self) -> bool {
        self.field().is_some()
    }

    /// Shows a page as if for the first time, with what was answered there before.
    fn go(&mut self, page: Page) {
        self.page = page;
        (self.scroll, self.remark, self.stray) = (0, None, false);
        self.input = match self.page {
            Page::Number => self.answers.number.clone(),
            Page::AssociationTyped => self.answers.association.clone().unwrap_or_default(),
            _ => String::new(),
        };
        self.cursor = match (&self.page, &self.matter) {
            (Page::Language, _) => Language::ALL.iter().position(|l| *l == self.language).unwrap_or(0),
            (Page::Association, Matter::Choose { associations, .. }) => {
                associations.iter().position(|a| Some(a) == self.answers.association.as_ref()).unwrap_or(0)
            }
            (Page::Profile, Matter::Choose { profiles, .. }) => {
                profiles.iter().position(|p| Some(&p.name) == self.answers.profile.as_ref()).unwrap_or(0)
            }
            _ => 0,
        };
    }

    fn association_page(&self) -> Page {
        match &self.matter {
            Matter::Choose { associations, .. } if !associations.is_empty() => Page::Association,
            _ => Page::AssociationTyped,
        }
    }

    /// What a key does.
    pub fn press(&mut self, key: Key) -> Option<Answer> {
        if self.page == Page::Help {
            self.come_back();
            return None;
        }
        match key {
            Key::F(1) => self.lay(Page::Help),
            Key::Esc | Key::Ctrl('c') if self.page == Page::Leave => self.come_back(),
            Key::Esc | Key::Ctrl('c') => self.lay(Page::Leave),
            Key::Left | Key::BackTab => return self.back(),
            Key::Enter => return self.enter(),
            Key::Char(c) => self.typed(c),
            Key::Backspace | Key::Delete => {
                // What is typed below this page stays.
                if self.has_field() {
                    self.input.pop();
                }
                (self.remark, self.stray) = (None, false);
            }
            _ => self.moved(key),
        }
        None
    }

    /// Lays a page over this one; what is typed there is kept.
    fn lay(&mut self, page: Page) {
        self.under.push((self.page.clone(), self.cursor));
        let input = std::mem::take(&mut self.input);
        self.go(page);
        self.input = input;
    }

    fn come_back(&mut self) {
        let Some((page, cursor)) = self.under.pop() else { return };
        let input = std::mem::take(&mut self.input);
        self.go(page);
        (self.input, self.cursor) = (input, cursor);
    }

    fn typed(&mut self, c: char) {
        match self.field() {
            Some(longest) => {
                if self.input.chars().count() < longest {
                    self.input.push(c);
                }
                self.remark = None;
            }
            None if c.is_ascii_digit() => {
                self.stray = true;
                self.remark = Some(Text::Stray);
            }
            None => {}
        }
    }

    fn moved(&mut self, key: Key) {
        let options = self.options().len();
        let page = 10;
        let (back, forth) = (
            matches!(key, Key::Up | Key::PageUp | Key::Home),
            matches!(key, Key::Down | Key::PageDown | Key::End | Key::Tab),
        );
        if !back && !forth {
            return;
        }
        // Where something is chosen the arrows choose, elsewhere they scroll. Reasons do both: their list has two lines only.
        let listed =
            options > 0 && !matches!((&self.page, key), (Page::Refused, Key::PageUp | Key::PageDown));
        (self.remark, self.stray) = (None, false);
        let (at, last) =
            if listed { (&mut self.cursor, options - 1) } else { (&mut self.scroll, usize::MAX - page) };
        *at = match key {
            Key::Up => at.saturating_sub(1),
            Key::PageUp => at.saturating_sub(page),
            Key::Home => 0,
            Key::End => last,
            Key::PageDown => at.saturating_add(page).min(last),
            _ => at.saturating_add(1).min(last),
        };
    }

    fn back(&mut self) -> Option<Answer> {
        match self.page {
            Page::Language => {}
            Page::Refused => return Some(Answer::Anew),
            Page::Association | Page::AssociationTyped => {
                self.keep();
                self.go(Page::Language);
            }
            Page::Profile => self.go(self.association_page()),
            Page::Number => {
                self.keep();
                self.go(Page::Profile);
            }
            Page::Unlabelled | Page::Two(_) => self.go(Page::Number),
            Page::Plan => return Some(Answer::Declined),
            Page::Confirm => self.go(Page::Plan),
            Page::Leave | Page::Help => self.come_back(),
        }
        None
    }

    /// Keeps what is typed on this page for when it is shown again.
    fn keep(&mut self) {
        let text = self.input.trim().to_owned();
        match self.page {
            Page::Number => self.answers.number = text,
            Page::AssociationTyped => self.answers.association = (!text.is_empty()).then_some(text),
            _ => {}
        }
    }

    fn enter(&mut self) -> Option<Answer> {
        if std::mem::take(&mut self.stray) {
            return None;
        }
        self.remark = None;
        match (self.page.clone(), &self.matter) {
            (Page::Language, _) => {
                self.language = Language::ALL[self.cursor.min(Language::ALL.len() - 1)];
                self.answers.language = Some(self.language);
                self.go(self.association_page());
            }
            (Page::Association, Matter::Choose { associations, .. }) => {
                self.answers.association = associations.get(self.cursor).cloned();
                self.go(Page::Profile);
            }
            (Page::AssociationTyped, _) => {
                // Who scans the label already here means the number.
                if matches!(number::read(&self.input), Ok(Some(_))) {
                    self.input.clear();
                    self.remark = Some(Text::StrayName);
                    return None;
                }
                self.keep();
                self.go(Page::Profile);
            }
            (Page::Profile, Matter::Choose { profiles, .. }) => {
                self.answers.profile = profiles.get(self.cursor).map(|p| p.name.clone());
                // A medium without a profile offers nothing to go on with.
                if self.answers.profile.is_some() {
                    self.go(Page::Number);
                }
            }
            (Page::Number, Matter::Choose { known, .. }) => {
                let known = *known;
                self.keep();
                return self.numbered(known);
            }
            (Page::Unlabelled, _) => match self.cursor {
                0 => return self.chosen(None),
                _ => self.go(Page::Number),
            },
            (Page::Two(typed), Matter::Choose { known, .. }) => match self.cursor {
                // What is on the disk is not on a label.
                1 if known.is_some() => return self.chosen(None),
                0 => self.go(Page::Number),
                _ => return self.chosen(Some(typed)),
            },
            (Page::Plan, _) => self.go(Page::Confirm),
            (Page::Confirm, Matter::Confirm(_)) => {
                if self.input.trim().eq_ignore_ascii_case(self.word()) {
                    return Some(Answer::Confirmed);
                }
                self.input.clear();
                self.remark = Some(Text::ConfirmWrong);
            }
            (Page::Refused, _) => match self.cursor {
                0 => return Some(Answer::Anew),
                _ => self.lay(Page::Leave),
            },
            (Page::Leave, _) => match self.cursor {
                1 => return Some(Answer::Left),
                _ => self.come_back(),
            },
            _ => {}
        }
        None
    }

    fn numbered(&mut self, known: Option<AssetNumber>) -> Option<Answer> {
        match (number::read(&self.answers.number), known) {
            (Err(typo), _) => self.remark = Some(Typo::text(typo)),
            (Ok(None), Some(_)) => return self.chosen(None),
            (Ok(None), None) => self.go(Page::Unlabelled),
            (Ok(Some(typed)), Some(known)) if typed != known => self.go(Page::Two(typed)),
            (Ok(typed), _) => return self.chosen(typed),
        }
        None
    }

    fn chosen(&self, asset: Option<AssetNumber>) -> Option<Answer> {
        let profile = self.answers.profile.clone()?;
        Some(Answer::Chosen(Choice { association: self.answers.association.clone(), profile, asset }))
    }
}

/// What kind of computer it is, in a few words: maker and model, or the processor; memory. Empty where nothing is known that tells it
/// from another.
fn machine(inventory: &Inventory) -> String {
    let dmi = &inventory.dmi;
    let name: Vec<&str> =
        [&dmi.system_vendor, &dmi.product_name].into_iter().flatten().map(String::as_str).collect();
    let name = if name.is_empty() { inventory.cpu.model.clone().unwrap_or_default() } else { name.join(" ") };
    if name.is_empty() { name } else { format!("{name}, {}", inventory.memory.total) }
}
