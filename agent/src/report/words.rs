//! What a volunteer reads, in the languages of [`Language`].
//!
//! Texts are in tables that the compiler keeps complete: one line for each, in each language. Reasons for a
//! refusal are found by their code; the two sentences a volunteer needs (what happened, what to do) are
//! here, and the numbers and names stay in the English message beside them, for the phone.
//!
//! French is written with the letters of code page 437 alone: every Linux console has them in its built-in font,
//! so no font has to be loaded. A serial line gets [`ascii`].

use akene_protocol::event::Phase;
use akene_protocol::{Issue, Language};

/// Makes `Text`, an enumeration of texts, from lines of names and texts in each language.
macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident: $en:literal, $fr:literal;)*) => {
        /// A text that stands by itself.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Text { $($(#[$doc])* $name,)* }

        impl Text {
            /// All there are.
            pub const ALL: &[Text] = &[$(Text::$name,)*];

            /// The text in a language.
            pub fn get(self, language: Language) -> &'static str {
                match (self, language) {
                    $((Text::$name, Language::En) => $en, (Text::$name, Language::Fr) => $fr,)*
                }
            }
        }
    };
}
pub(crate) use texts;

texts! {
    /// Before the computer's number, below the large digits.
    Number: "This computer is number", "Cet ordinateur porte le numéro";
    /// Before the phase that waits.
    Waiting: "WAITING while:", "EN ATTENTE :";
    /// Before the phase in which it ended.
    Stopped: "STOPPED while:", "ARRET :";
    /// Disks were changed before it ended.
    Changed: "Disks of this computer were changed.", "Les disques de cet ordinateur ont été modifiés.";
    /// No disk was changed.
    Unchanged: "Nothing on the disks of this computer was changed.",
        "Rien n'a été modifié sur les disques de cet ordinateur.";
    /// Before what happened.
    Happened: "What happened:", "Ce qui se passe :";
    /// Before what to do.
    ToDo: "What to do:", "Que faire :";
    /// Before the English message, where the sentence is a translation.
    Detail: "Detail:", "Détail (en anglais) :";
    /// Before the number of reasons that do not fit.
    More: "more:", "autres raisons :";
    /// Before what is to be read out.
    Phone: "On the phone, say: number", "Au téléphone, dites : numéro";
    /// The end.
    Installed: "The system is installed. You can take the disc or stick out now.",
        "Le système est installé. Vous pouvez retirer le disque ou la clé.";
    /// The installed system has reported.
    Runs: "is running.", "fonctionne.";
    /// Between the amount done and the whole.
    Of: "of", "sur";
    /// After the time left.
    Left: "left", "restantes";
    /// After a number of packages.
    Packages: "packages", "paquets";
    /// Between what comes and the countdown.
    In: "in", "dans";
    /// What comes: another attempt.
    NextAttempt: "the next attempt begins", "nouvel essai";
    /// What comes: another attempt, a mirror may be in the middle of an update.
    ArchiveChanges: "the archive may be changing just now; the next attempt begins",
        "le serveur de paquets est peut-être en cours de mise à jour ; nouvel essai";
    /// What comes: a person may have permitted another attempt.
    AsksAgain: "the administrator is asked again", "nouvelle demande à l'administrateur";
    /// Where nobody answers, and all that is needed lies on the disks.
    GoesOnAlone: "without the network, the installation goes on with what is on this computer",
        "sans réseau, l'installation continue avec ce qui est sur cet ordinateur";
    /// Disks are about to change, and packages are read from the stick afterwards.
    LeaveIn: "DO NOT PULL THE STICK OUT until this line says that you may.",
        "NE RETIREZ PAS LA CLÉ avant que cette ligne ne le permette.";
    /// Everything of the stick was read.
    MayBePulled: "Everything is read. Leave the stick in for the report, or take it out now.",
        "Tout est lu. Laissez la clé pour le compte rendu, ou retirez-la maintenant.";
    /// The stick may have been taken out already, and is there.
    ReportBegins: "Writing the report to the stick: leave it in.",
        "Ecriture du compte rendu sur la clé : ne la retirez pas.";
    /// After that.
    ReportWritten: "The report is on the stick. You can take it out now.",
        "Le compte rendu est sur la clé. Vous pouvez la retirer.";
    /// The stick is gone, full or cannot be written to.
    ReportStays: "The report is not on the stick: this computer keeps it, and sends it later.",
        "Le compte rendu reste sur cet ordinateur, qui l'enverra plus tard.";
    /// What comes: the end of looking for the stick.
    StickWanted: "looking for the stick, at most", "recherche de la clé, au plus";
    /// What comes: a restart after a look.
    RestartsUnchanged: "nothing was changed; this computer restarts",
        "rien n'a été modifié ; cet ordinateur redémarre";
    /// What comes: a restart after a refusal.
    Restarts: "this computer restarts", "cet ordinateur redémarre";
    /// What comes: the system that is there.
    GoesBack: "nothing was changed; this computer goes back to its system",
        "rien n'a été modifié ; cet ordinateur retourne à son système";
    /// What comes: the new system.
    InstalledRestarts: "installed; this computer restarts", "installation finie ; cet ordinateur redémarre";
    /// What comes: the end.
    InstalledOff: "installed; this computer switches itself off",
        "installation finie ; cet ordinateur s'éteint";
    /// Something did not work and is tried again.
    TryingAgain: "no success yet, trying again", "pas encore de réponse, nouvel essai";
    /// A serial line's mark of a failure.
    Failed: "FAILED", "ECHEC";
    /// A phase has ended.
    Done: "done", "fait";
    /// The head of a reason that leaves nothing to try.
    CannotGoOn: "*** The installation cannot go on. ***", "*** L'installation ne peut pas continuer. ***";
    /// Before the code of a reason.
    Code: "Code:", "Code de l'erreur :";
    /// After a restart that comes by itself.
    AtOnce: "Ctrl-Alt-Del restarts it at once.", "Ctrl-Alt-Suppr le redémarre tout de suite.";
    /// The answer to the three keys.
    KeysPressed: "Restarting, because Ctrl-Alt-Del was pressed.",
        "Redémarrage, car Ctrl-Alt-Suppr a été pressé.";
    /// Before what became of the network.
    Network: "Network:", "Réseau :";
}

/// What a phase does.
pub fn phase(phase: Phase, language: Language) -> &'static str {
    if language == Language::En {
        return phase.title();
    }
    match phase {
        Phase::Boot => "Démarrage",
        Phase::Network => "Connexion au réseau",
        Phase::Probe => "Examen de cet ordinateur",
        Phase::Profile => "Demande au serveur : quoi installer",
        Phase::Plan => "Répartition des disques",
        Phase::Consent => "Vérification de l'autorisation",
        Phase::Stage => "Téléchargement",
        Phase::Commit => "Préparation des disques",
        Phase::Install => "Installation",
        Phase::Configure => "Réglages",
        Phase::Restart => "Redémarrage",
        Phase::Confirm => "Compte rendu au serveur",
    }
}

/// What happened and what to do, in French, by code.
const FRENCH: &[(&str, &str, &str)] = &[
    (
        "no-network-card",
        "aucune carte réseau n'a été trouvée, ou elle n'est pas connue",
        "branchez un adaptateur réseau USB, ou appelez l'administrateur",
    ),
    (
        "no-cable",
        "aucun câble réseau n'est branché",
        "branchez le câble aux deux bouts ; sinon, essayez une autre prise",
    ),
    (
        "no-address",
        "le câble est branché, mais le réseau ne donne pas d'adresse",
        "éteignez et rallumez la box, puis attendez ; sinon, essayez une autre prise",
    ),
    (
        "portal",
        "le réseau demande une connexion par une page web, ou un proxy bloque le passage",
        "demandez au responsable du réseau d'autoriser cet ordinateur, ou utilisez une autre connexion",
    ),
    (
        "name-not-found",
        "le réseau fonctionne, mais le nom du serveur est introuvable",
        "redémarrez la box ; si rien ne change, appelez l'administrateur",
    ),
    (
        "server-silent",
        "le réseau fonctionne, mais le serveur ne répond pas",
        "attendez quelques minutes ; si rien ne change, appelez l'administrateur",
    ),
    (
        "certificate-wrong",
        "un autre ordinateur répond à la place du serveur",
        "appelez l'administrateur ; un filtre (école, entreprise) doit laisser passer le serveur",
    ),
    (
        "certificate-expired",
        "le certificat du serveur n'est plus valable",
        "appelez l'administrateur, qui doit le renouveler",
    ),
    (
        "clock-wrong",
        "l'horloge de cet ordinateur est fausse",
        "réglez la date et l'heure dans le BIOS, puis redémarrez ; la pile est sans doute vide",
    ),
    (
        "token-refused",
        "le serveur n'accepte plus ce disque ou cette clé",
        "appelez l'administrateur : il faut préparer un nouveau disque",
    ),
    (
        "stamp-wrong",
        "les réglages de ce disque ou de cette clé sont faux",
        "appelez l'administrateur : il faut le préparer à nouveau",
    ),
    ("stamp-damaged", "ce disque ou cette clé est abîmé", "faites une nouvelle copie du disque ou de la clé"),
    (
        "medium-missing",
        "la clé ou le disque d'installation n'est pas branché",
        "branchez la clé qui a démarré cet ordinateur, ou essayez une autre prise",
    ),
    (
        "medium-foreign",
        "cette clé ou ce disque appartient à une autre organisation",
        "utilisez la clé qui a démarré cet ordinateur",
    ),
    (
        "medium-damaged",
        "la clé ou le disque d'installation est abîmé",
        "essayez une autre copie ; rien ne peut être installé avec celle-ci",
    ),
    (
        "medium-pulled",
        "la clé ou le disque a été retiré trop tôt",
        "remettez la clé ou le disque ; l'installation continue alors d'elle-même",
    ),
    (
        "profile-not-on-medium",
        "ce qui est demandé n'est pas sur la clé ou le disque",
        "utilisez une autre clé, ou appelez l'administrateur",
    ),
    (
        "live-system-broken",
        "l'installateur de ce disque ou de cette clé ne démarre pas",
        "redémarrez ; si le message revient, essayez une autre copie du disque ou de la clé",
    ),
    (
        "installer-ended",
        "l'installateur s'est arrêté à cause d'un défaut",
        "notez le texte ci-dessus ; cet ordinateur redémarre de lui-même",
    ),
    (
        "unstamped",
        "ce disque ou cette clé n'appartient à aucune association",
        "appelez l'administrateur : il faut le préparer",
    ),
    (
        "credential-refused",
        "le serveur ne reconnaît plus cet ordinateur",
        "redémarrez à partir du disque ou de la clé",
    ),
    (
        "no-identity",
        "rien sur les disques ne dit au serveur quel est cet ordinateur",
        "redémarrez à partir du disque ou de la clé",
    ),
    ("server-busy", "le serveur a trop de travail", "attendez ; un nouvel essai suit"),
    ("server-error", "le serveur a une panne", "attendez ; si rien ne change, appelez l'administrateur"),
    (
        "consent-needed",
        "il y a quelque chose sur le disque, et rien ne permet de l'effacer",
        "sauvez ce qui doit l'être, puis appelez l'administrateur, qui peut l'autoriser",
    ),
    ("no-consent", "l'installation n'est pas autorisée", "appelez l'administrateur"),
    ("no-grant", "le serveur n'a pas autorisé l'installation", "appelez l'administrateur"),
    (
        "not-allowed",
        "cet ordinateur attend l'accord de l'administrateur",
        "appelez l'administrateur et donnez le numéro",
    ),
    (
        "already-installed",
        "cet ordinateur est déjà installé",
        "retirez le disque ou la clé et redémarrez ; pour réinstaller, appelez l'administrateur",
    ),
    (
        "failed-too-often",
        "l'installation a échoué plusieurs fois de suite",
        "appelez l'administrateur et donnez le numéro ; laissez l'ordinateur allumé, avec le réseau",
    ),
    (
        "needs-help",
        "le système de cet ordinateur ne démarre pas",
        "appelez l'administrateur et donnez le numéro ; laissez l'ordinateur allumé, avec le réseau",
    ),
    (
        "no-room-for-installer",
        "la partition de démarrage de cet ordinateur est pleine",
        "rien n'a été modifié ; appelez l'administrateur",
    ),
    (
        "record-altered",
        "les paquets notés sur cet ordinateur ne sont pas ceux de l'association",
        "branchez le réseau, ou appelez l'administrateur",
    ),
    (
        "other-disks",
        "les disques de cet ordinateur ne sont plus les mêmes qu'au début de l'installation",
        "remettez les disques d'avant, ou branchez le réseau",
    ),
    (
        "no-disk",
        "cet ordinateur n'a pas de disque",
        "vérifiez les câbles du disque, ou appelez l'administrateur",
    ),
    ("only-removable-disks", "il n'y a que des disques amovibles", "vérifiez les câbles du disque interne"),
    ("no-usable-disk", "aucun disque de cet ordinateur ne convient", "appelez l'administrateur"),
    (
        "disk-too-small",
        "le disque est trop petit",
        "mettez un plus grand disque, ou appelez l'administrateur",
    ),
    (
        "package-unreachable",
        "le serveur de paquets ne répond pas",
        "attendez ; si rien ne change, appelez l'administrateur",
    ),
    (
        "archive-unreachable",
        "le serveur de paquets ne répond pas",
        "attendez ; si rien ne change, appelez l'administrateur",
    ),
    (
        "package-hash",
        "un fichier téléchargé est abîmé",
        "attendez ; si rien ne change, appelez l'administrateur",
    ),
    (
        "package-damaged",
        "un fichier vérifié est devenu illisible : la mémoire ou le disque est en panne",
        "testez la mémoire depuis le menu, puis recommencez",
    ),
    (
        "index-oversized",
        "le serveur de paquets envoie autre chose que ce qui est attendu",
        "recommencez plus tard ; si rien ne change, appelez l'administrateur",
    ),
    (
        "mirror-updating",
        "le serveur de paquets change en ce moment",
        "attendez ; si rien ne change, appelez l'administrateur",
    ),
    (
        "no-room-to-stage",
        "il n'y a pas assez de place pour télécharger avant d'effacer l'ancien système",
        "ajoutez de la mémoire, ou appelez l'administrateur, qui peut autoriser à l'effacer d'abord",
    ),
    (
        "no-space",
        "il n'y a plus de place pour les fichiers téléchargés",
        "ajoutez de la mémoire, mettez un plus grand disque, ou appelez l'administrateur",
    ),
    (
        "no-room",
        "le système demandé ne tient pas sur les disques de cet ordinateur",
        "mettez un plus grand disque, ou appelez l'administrateur",
    ),
    (
        "disks-too-small",
        "les disques sont trop petits",
        "mettez un plus grand disque, ou appelez l'administrateur",
    ),
    (
        "disk-gone",
        "un disque de cet ordinateur a disparu entre-temps",
        "vérifiez les câbles du disque, puis redémarrez",
    ),
    (
        "disk-changed",
        "un disque de cet ordinateur a changé entre-temps",
        "redémarrez ; si rien ne change, appelez l'administrateur",
    ),
    (
        "disk-unreadable",
        "un disque de cet ordinateur ne peut plus être lu",
        "sauvez ce qui doit l'être ; il faut remplacer ce disque",
    ),
    (
        "disk-failing",
        "un disque de cet ordinateur est en train de tomber en panne",
        "sauvez ce qui doit l'être ; il faut remplacer ce disque",
    ),
    (
        "kept-damaged",
        "une partition à garder est abîmée",
        "démarrez l'ancien système, sauvez les fichiers, puis appelez l'administrateur",
    ),
    (
        "kept-data-in-the-way",
        "des fichiers à garder ne laissent pas assez de place au nouveau système",
        "choisissez un système plus petit, ou sauvez les fichiers ailleurs et appelez l'administrateur",
    ),
    (
        "not-startable-by-bios",
        "cet ordinateur ne peut pas démarrer depuis le disque qui a de la place",
        "mettez un autre disque, ou appelez l'administrateur",
    ),
    ("table-full", "la liste des partitions de ce disque est pleine", "appelez l'administrateur"),
    (
        "volume-too-large",
        "une partie du système demandé ne tient sur aucun disque",
        "choisissez un système plus petit, ou mettez un plus grand disque",
    ),
    (
        "disk-holds-files",
        "ce disque contient des fichiers personnels, et il n'est pas utilisé",
        "sauvez les fichiers ailleurs, puis appelez l'administrateur",
    ),
    ("disk-removable", "ce disque est amovible, et il n'est pas utilisé", "installez sur un disque interne"),
    (
        "disk-read-only",
        "ce disque refuse l'écriture",
        "cherchez un petit interrupteur de protection, ou remplacez le disque",
    ),
    ("disk-sector-size", "ce disque a un format rare, et il n'est pas utilisé", "mettez un autre disque"),
    ("disk-selector", "aucun disque n'est celui que l'administrateur a choisi", "appelez l'administrateur"),
    ("disk-not-selected", "l'administrateur a choisi un autre disque", "appelez l'administrateur"),
    (
        "disk-too-large-for-mbr",
        "ce disque est trop grand pour le réglage demandé",
        "appelez l'administrateur",
    ),
    ("disk-empty-slot", "ce lecteur est vide", "mettez-y un disque"),
    ("disk-live-medium", "c'est la clé ou le disque de l'installateur", "installez sur un autre disque"),
    ("too-many-disks", "il y a plus de disques qu'on ne peut en utiliser", "appelez l'administrateur"),
    (
        "no-console",
        "il n'y a ni écran ni clavier pour poser les questions",
        "branchez un écran et un clavier, puis redémarrez",
    ),
    (
        "raid-controller",
        "le contrôleur de disques cache les disques (mode RAID)",
        "dans le BIOS, mettez le contrôleur de disques en mode AHCI, puis redémarrez",
    ),
    (
        "release-future",
        "les listes de paquets sont datées dans le futur, ou l'horloge de l'ordinateur est fausse",
        "vérifiez la date sur l'écran de démarrage (BIOS), ou appelez l'administrateur",
    ),
    (
        "lock-too-old",
        "la liste signée des paquets est trop ancienne, ou l'horloge de l'ordinateur est fausse",
        "vérifiez la date sur l'écran de démarrage (BIOS), ou appelez l'administrateur",
    ),
    (
        "lock-downgrade",
        "la liste signée des paquets est plus ancienne que celle de la dernière installation",
        "appelez l'administrateur",
    ),
    (
        "release-expired",
        "les listes de paquets sont trop anciennes, ou l'horloge de l'ordinateur est fausse",
        "vérifiez la date sur l'écran de démarrage (BIOS), ou appelez l'administrateur",
    ),
];

/// What happened and what to do, where there are words for it in this language. English messages need none.
pub fn reason(issue: &Issue, language: Language) -> Option<(&'static str, &'static str)> {
    match language {
        Language::En => None,
        Language::Fr => {
            FRENCH.iter().find(|(code, ..)| *code == issue.code).map(|(_, what, next)| (*what, *next))
        }
    }
}

/// The same without accents, for lines that carry no others.
pub fn ascii(text: &str) -> String {
    let plain = |c: char| match c {
        'à' | 'â' | 'ä' => 'a',
        'é' | 'è' | 'ê' | 'ë' => 'e',
        'î' | 'ï' => 'i',
        'ô' | 'ö' => 'o',
        'ù' | 'û' | 'ü' => 'u',
        'ç' => 'c',
        'É' | 'È' | 'Ê' => 'E',
        'À' => 'A',
        'Ç' => 'C',
        c if c.is_ascii() => c,
        _ => '?',
    };
    text.chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The letters beyond ASCII that code page 437 has and French uses.
    const CP437: &str = "çéâàêëèïîÉôûùÇ";

    fn french() -> Vec<&'static str> {
        let texts = Text::ALL.iter().map(|text| text.get(Language::Fr));
        let phases = Phase::ALL.into_iter().map(|p| phase(p, Language::Fr));
        texts.chain(phases).chain(FRENCH.iter().flat_map(|(_, what, next)| [*what, *next])).collect()
    }

    #[test]
    fn every_text_is_there_in_both_languages() {
        for text in Text::ALL {
            let [en, fr] = Language::ALL.map(|language| text.get(language));
            assert!(!en.is_empty() && !fr.is_empty() && en != fr && en.is_ascii(), "{text:?}");
        }
        for p in Phase::ALL {
            assert_eq!(phase(p, Language::En), p.title());
            assert_ne!(phase(p, Language::Fr), p.title(), "{p}");
        }
        let mut codes: Vec<&str> = FRENCH.iter().map(|(code, ..)| *code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), FRENCH.len(), "a code stands twice");
    }

    /// Every code the network diagnosis can give, read from its sources.
    #[test]
    fn every_diagnosis_of_the_network_has_its_french_words() {
        let sources = [
            include_str!("../net/diagnose.rs"),
            include_str!("../net/online.rs"),
            include_str!("../net/bring_up.rs"),
            include_str!("../net/http.rs"),
        ];
        let mut found = 0;
        for source in sources {
            let code = source.split("#[cfg(test)]").next().unwrap();
            for rest in code.split("Issue::new(").skip(1) {
                let Some(name) = rest.trim_start().strip_prefix('"').and_then(|r| r.split('"').next()) else {
                    continue;
                };
                found += 1;
                let issue = Issue::new(name, "", "", "");
                assert!(reason(&issue, Language::Fr).is_some(), "`{name}` has no French words");
            }
        }
        assert!(found >= 10, "only {found} diagnoses were found in the sources");
    }

    /// Every code a golden machine was refused with. Mistakes in a profile are the administrator's, who reads English.
    #[test]
    fn every_refusal_of_the_planner_has_its_french_words() {
        let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
        let mut found = 0;
        for machine in std::fs::read_dir(golden).unwrap() {
            let Ok(text) = std::fs::read_to_string(machine.unwrap().path().join("error.txt")) else {
                continue;
            };
            for code in text.lines().filter_map(|line| line.rsplit_once('[')?.1.strip_suffix(']')) {
                found += 1;
                if !code.starts_with("profile-") && !matches!(code, "volume-sizes" | "volume-mount") {
                    let issue = Issue::new(code, "", "", "");
                    assert!(reason(&issue, Language::Fr).is_some(), "`{code}` has no French words");
                }
            }
        }
        assert!(found >= 30, "only {found} refusals were found");
    }

    #[test]
    fn french_needs_no_font_and_a_serial_line_gets_plain_letters() {
        for text in french() {
            assert!(text.chars().all(|c| c.is_ascii() || CP437.contains(c)), "{text}");
            assert!(ascii(text).is_ascii() && !ascii(text).contains('?'), "{text}");
        }
        assert_eq!(ascii("Préparation ☃"), "Preparation ?");
    }
}
