//! The person who stands in front of the machine with a stick, where the stamp says that one does.
//!
//! The run asks twice: [`Technician::choose`] before anything is known but the machine itself, and
//! [`Technician::confirm`] when there is a plan. Between and after, the usual screen shows what happens. Whoever
//! implements this only talks; what is permitted and what follows from it is decided by the pipeline.

use akene_planner::Plan;
use akene_protocol::api::Consent;
use akene_protocol::{AssetNumber, Bytes, Inventory, Issue, Language, Resolved};
use anyhow::Result;

use crate::fetch::Permission;

/// Code of the issue that the technician went away instead of answering. The machine restarts into what it has.
pub const LEFT: &str = "technician-left";

/// Code of the issue that the technician read the plan and wants to change an answer: they are to be asked anew, at once.
pub const DECLINED: &str = "technician-declined";

/// What a technician chooses from.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// Name of the site.
    pub site: &'a str,
    /// The associations it looks after. None: the technician types a name, or none.
    pub associations: &'a [String],
    /// The profiles on the medium, the one to offer first at the beginning.
    pub profiles: &'a [Offered],
    /// The number the machine has already.
    pub known: Option<AssetNumber>,
    /// What the machine is.
    pub inventory: &'a Inventory,
}

/// A profile that can be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Name.
    pub name: String,
    /// Bytes of all packages its machines can need.
    pub size: Bytes,
    /// What it is, in a few words of the administrator's.
    pub title: Option<String>,
}

/// What a technician chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The association the machine stands at.
    pub association: Option<String>,
    /// Name of a profile on offer.
    pub profile: String,
    /// The number on the machine's label, typed or scanned. None: the one it has, or one that is drawn.
    pub asset: Option<AssetNumber>,
}

/// A person who is asked.
pub trait Technician {
    /// What this machine is to become, and for whom.
    ///
    /// # Errors
    /// An issue with the code [`LEFT`], or that nobody can be asked: there is no console.
    fn choose(&mut self, offer: &Offer<'_>) -> Result<Choice>;

    /// Whether the plan is to be carried out. The permission may be as large as `most`, which the medium allows, and need
    /// not be larger than what the plan needs.
    ///
    /// # Errors
    /// [`LEFT`] or [`DECLINED`].
    fn confirm(
        &mut self,
        plan: &Plan,
        inventory: &Inventory,
        resolved: &Resolved,
        most: Consent,
    ) -> Result<Permission, Issue>;

    /// The language the person wants to be spoken to in from now on. `None`: that of the stamp.
    fn language(&self) -> Option<Language> {
        None
    }

    /// What did not work while the person was asked, and keeps nothing from going on. Said once.
    fn complaint(&mut self) -> Option<anyhow::Error> {
        None
    }

    /// The medium is needed no more: everything of it that the run needs lies elsewhere, verified. Must not wait.
    fn pulled(&mut self);

    /// Shows why a run ended, all reasons, and returns when the person has read them and says what comes next. What was
    /// changed of the disks is said by the screen.
    fn show(&mut self, issues: &[Issue]) -> Next;
}

/// What the technician wants after a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// To be asked anew, with the answers given so far on offer.
    Anew,
    /// The machine restarted.
    Restart,
}
