//! What a person reads while rescuing, in the languages of [`Language`], in the manner of [`crate::report::words`].
//!
//! `{}` stands for a value, in the same order in each language.

use akene_protocol::{Issue, Language};

use crate::report::words::texts;

texts! {
    /// Head of the menu.
    Head: "AKENE RESCUE. Nothing is changed before you are asked.",
        "SECOURS AKENE. Rien n'est modifié avant une question.";
    /// A choice of the menu.
    MenuDisks: "Look at the disks", "Regarder les disques";
    /// A choice of the menu.
    MenuCopy: "Copy people's files to another disk", "Copier les fichiers des personnes sur un autre disque";
    /// A choice of the menu.
    MenuHealth: "Health of the disks", "Santé des disques";
    /// A choice of the menu.
    MenuMemory: "Test the memory", "Tester la mémoire";
    /// A choice of the menu.
    MenuPassword: "A forgotten password", "Un mot de passe oublié";
    /// A choice of the menu.
    MenuBoot: "Repair the start of a system", "Réparer le démarrage d'un système";
    /// A choice of the menu.
    MenuShell: "Shell, for who knows what to do with it", "Ligne de commande, pour qui sait s'en servir";
    /// A choice of the menu.
    MenuRestart: "Restart the computer", "Redémarrer l'ordinateur";
    /// A choice of the menu.
    MenuOff: "Switch the computer off", "Eteindre l'ordinateur";
    /// A choice of the menu, for who reads the other language.
    MenuLanguage: "En francais, avec un clavier AZERTY", "In English, with a QWERTY keyboard";
    /// Over the menu.
    WhatToDo: "What shall be done?", "Que faire ?";
    /// Asks for a number.
    Number: "Number (Enter alone: none):", "Numéro (Entrée seule : aucun) :";
    /// The answer was none of the numbers.
    NotANumber: "Please type one of the numbers.", "Tapez un des numéros.";
    /// What has to be typed to agree.
    Yes: "yes", "oui";
    /// Asks for consent.
    Agree: "Type yes to do it, anything else leaves all as it is:",
        "Tapez oui pour le faire ; toute autre réponse laisse tout en l'état :";
    /// Consent was not given.
    NothingDone: "Nothing was changed.", "Rien n'a été modifié.";
    /// Waits until a page was read.
    GoOn: "Enter goes on.", "Entrée pour continuer.";
    /// Disks are being looked at.
    Looking: "Looking at the disks. This can take a minute.", "Examen des disques. Cela peut durer une minute.";
    /// There are none.
    NoDisks: "There are no disks.", "Il n'y a aucun disque.";
    /// A disk that does not say its model.
    NoModel: "model unknown", "modèle inconnu";
    /// Mark of a disk.
    ThisMedium: "this medium", "ce disque ou cette clé";
    /// Mark of a disk.
    External: "external", "externe";
    /// Mark of a disk.
    ReadOnly: "read-only", "lecture seule";
    /// What lies there.
    Nothing: "nothing known", "rien de connu";
    /// What lies there.
    Encrypted: "encrypted (LUKS)", "chiffré (LUKS)";
    /// What lies there.
    Member: "part of a volume group (LVM)", "partie d'un groupe de volumes (LVM)";
    /// What lies there.
    AkeneBoot: "start of an Akene system", "démarrage d'un système Akene";
    /// What lies there.
    Homes: "people's files", "fichiers des personnes";
    /// Beside a system.
    WithHomes: "with people's files", "avec les fichiers des personnes";
    /// What lies there.
    Esp: "EFI system partition", "partition système EFI";
    /// What lies there.
    SwapSpace: "swap space", "espace d'échange";
    /// What lies there.
    Empty: "empty", "vide";
    /// What lies there.
    Files: "files", "fichiers";
    /// Before the bytes in use.
    Used: "used:", "occupé :";
    /// Before the name of a group.
    Group: "volume group (LVM)", "groupe de volumes (LVM)";
    /// Of a group.
    Complete: "complete", "complet";
    /// Of a group.
    Incomplete: "INCOMPLETE: a disk of it is missing", "INCOMPLET : il y manque un disque";
    /// Over a list of volumes.
    WhichOpen: "Which one shall be opened, to look at only?", "Lequel ouvrir, en lecture seule ?";
    /// It is mounted.
    OpenedAt: "{} is open at {}, read-only. `umount {}` closes it, `exit` leads back to the menu.",
        "{} est ouvert dans {}, en lecture seule. `umount {}` le ferme, `exit` revient au menu.";
    /// Over a list of volumes.
    WhoseVolumes: "Whose files? People's files were found here:", "Les fichiers de qui ? Il y en a ici :";
    /// No files of people were found.
    NobodysFiles: "No people's files were found. Other volumes can be opened with *Look at the disks*.",
        "Aucun fichier de personne n'a été trouvé. Les autres volumes s'ouvrent par *Regarder les disques*.";
    /// Volumes that are not copied from.
    Others: "Not copied from, but can be opened with *Look at the disks*:",
        "Pas copiés, mais à ouvrir par *Regarder les disques* :";
    /// Choice of all.
    Everybody: "everybody", "tout le monde";
    /// A person in a list: name, volume, bytes, entries.
    OnePerson: "{} ({}): {} in {} files", "{} ({}) : {} dans {} fichiers";
    /// A journal is pending: volume.
    Unclean: "{} was not shut down in order: what was written in the last seconds before may be missing in the copy. If its own system still starts, start it once and shut it down.",
        "{} n'a pas été arrêté correctement : les dernières secondes avant l'arrêt manqueront peut-être dans la copie. Si son système démarre encore, démarrez-le et arrêtez-le une fois.";
    /// Over a list of disks.
    WhichDisk: "Onto which disk?", "Sur quel disque ?";
    /// There is no disk to copy to.
    NoTarget: "No external disk that files can be saved on was found. Plug one in, wait ten seconds, and choose again.",
        "Aucun disque externe qui convienne n'a été trouvé. Branchez-en un, attendez dix secondes et recommencez.";
    /// What a copy writes: bytes, volume, disk, bytes free.
    WillCopy: "{} will be written to {} on this disk, below `akene-saved`; {} are free there.\n   {}\nNothing else is written, and nothing is deleted.",
        "{} seront écrits sur {} de ce disque, dans `akene-saved` ; {} y sont libres.\n   {}\nRien d'autre n'est écrit, et rien n'est effacé.";
    /// A filesystem without owners.
    AsArchive: "This disk's filesystem knows no owners: one archive (tar, in parts) is written for each person.",
        "Le système de fichiers de ce disque ne connaît pas de propriétaires : une archive (tar, en parties) par personne.";
    /// Progress: whose, per cent.
    Copying: "{}: {} %", "{} : {} %";
    /// Progress: whose.
    Checking: "{}: reading back and comparing", "{} : relecture et comparaison";
    /// All is well: whose.
    Saved: "Saved and read back without a difference: {}.", "Copiés et relus sans différence : {}.";
    /// Not all is well.
    NotAllSaved: "NOT everything could be saved. These could not be read, or are not the same:",
        "TOUT n'a PAS pu être copié. Illisibles, ou différents :";
    /// What to do then.
    CopyAgain: "The same choice again goes on where it stopped. Keep the old disk.",
        "Le même choix reprend où il s'est arrêté. Gardez l'ancien disque.";
    /// More lines than fit.
    AndMore: "... and {} more", "... et {} autres";
    /// A verdict.
    HealthGood: "It says it is good.", "Il se dit en bonne santé.";
    /// A verdict.
    HealthWorn: "It is worn.", "Il est usé.";
    /// A verdict.
    HealthFailing: "IT IS FAILING.", "IL EST EN TRAIN DE TOMBER EN PANNE.";
    /// A verdict.
    HealthUnknown: "It does not say how it is.", "Il ne dit pas comment il va.";
    /// A verdict.
    HealthSilent: "A disk attached like this is not asked how it is.",
        "Un disque branché ainsi n'est pas interrogé.";
    /// What to do.
    NextGood: "Nothing to do. No disk lasts for ever: copies of what matters belong on another one.",
        "Rien à faire. Aucun disque n'est éternel : gardez ailleurs une copie de ce qui compte.";
    /// What to do.
    NextWorn: "Use it while nothing better is there, for nothing that matters. Plan to replace it.",
        "A utiliser faute de mieux, pour rien d'important. Prévoyez de le remplacer.";
    /// What to do.
    NextFailing: "Now save what is on it (*Copy people's files*), then replace it. Do not install on it.",
        "Copiez maintenant ce qu'il contient (*Copier les fichiers*), puis remplacez-le. N'y installez rien.";
    /// What to do.
    NextUnknown: "Keep copies of what is on it.", "Gardez une copie de ce qu'il contient.";
    /// Before reasons in English.
    Because: "Because:", "Détail (en anglais) :";
    /// A figure.
    Hours: "{} hours in use", "{} heures de fonctionnement";
    /// A figure.
    Temperature: "{} degrees Celsius", "{} degrés Celsius";
    /// A figure.
    Replaced: "{} sectors replaced", "{} secteurs remplacés";
    /// A figure.
    WaitingSectors: "{} sectors that could not be read and wait to be replaced",
        "{} secteurs illisibles en attente de remplacement";
    /// A figure.
    Unreadable: "{} sectors that cannot be read", "{} secteurs illisibles";
    /// A figure.
    Uncorrected: "{} errors that were not corrected", "{} erreurs non corrigées";
    /// A figure.
    LifeUsed: "{} % of its life is used", "{} % de sa durée de vie sont utilisés";
    /// A figure.
    Spare: "{} % of its spare blocks are left", "{} % de ses blocs de réserve restent";
    /// How memory is tested.
    MemoryRestart: "The whole memory is tested below any system: restart, and in the medium's first menu choose *Test the memory*. One round takes an hour or more; Escape ends it.",
        "La mémoire entière se teste hors de tout système : redémarrez et, dans le premier menu du disque ou de la clé, choisissez *Tester la memoire*. Un tour dure une heure ou plus ; Echap l'arrête.";
    /// Which key.
    MemoryByHand: "While the computer starts, press the key for its list of media (F12, F9, F8, Esc ...) and choose this medium.",
        "Au démarrage, appuyez sur la touche de la liste des disques (F12, F9, F8, Echap...) et choisissez ce disque ou cette clé.";
    /// Secure Boot.
    MemorySecure: "Secure Boot is on: the medium's menu has no *Test the memory* then. Only the memory that is free can be tested, from here. To test all of it, switch Secure Boot off in the settings for as long as it takes.",
        "Secure Boot est actif : le menu du disque n'a pas de test de mémoire. Seule la mémoire libre peut être testée d'ici. Pour tout tester, désactivez Secure Boot le temps du test.";
    /// A choice.
    MemoryHere: "Test the {} that are free now, from here", "Tester d'ici les {} libres en ce moment";
    /// A choice.
    MemoryNow: "Restart into the medium's menu", "Redémarrer vers le menu du disque ou de la clé";
    /// Asks before the firmware is told.
    MemoryAgree: "The firmware is told to start from this medium once more (a note in its own memory, for one start), and the computer restarts.",
        "Le micrologiciel est prié de redémarrer une fois sur ce disque ou cette clé (une note dans sa mémoire, pour une fois), et l'ordinateur redémarre.";
    /// The firmware did not take it.
    MemoryRefused: "The firmware did not take it.", "Le micrologiciel a refusé.";
    /// Too little is free.
    MemoryNone: "Too little memory is free to test any from here.", "Trop peu de mémoire est libre pour un test d'ici.";
    /// A test begins.
    MemoryBegins: "Testing. This takes from minutes to hours.", "Test en cours. Cela dure de quelques minutes à des heures.";
    /// A verdict.
    MemorySound: "No fault was found in what was tested.", "Aucun défaut trouvé dans ce qui a été testé.";
    /// A verdict.
    MemoryFaulty: "THE MEMORY IS FAULTY. Switch off, take one module out after the other and test again; replace the bad one.",
        "LA MEMOIRE EST DEFECTUEUSE. Eteignez, retirez les barrettes une à une en refaisant le test ; remplacez la mauvaise.";
    /// Over a list of systems.
    WhichSystem: "Which system?", "Quel système ?";
    /// There is none.
    NoSystems: "No Linux system that can be opened was found on the disks.",
        "Aucun système Linux qu'on puisse ouvrir n'a été trouvé sur les disques.";
    /// Over a list of accounts.
    WhosePassword: "Whose password?", "Le mot de passe de qui ?";
    /// Asks for a password.
    NewPassword: "New password (not shown):", "Nouveau mot de passe (non affiché) :";
    /// Asks for it again.
    OnceMore: "Once more:", "Encore une fois :";
    /// It holds characters that lie on other keys elsewhere.
    Keyboard: "Take care: this password holds characters that lie on other keys on other keyboards (a q w z y m, digits, signs). Where the keyboard here is not the one the menu believes in, the same keys may give another password later. To be sure answer no, and choose one of the other letters alone; it can be changed when the system runs.",
        "Attention : ce mot de passe contient des signes placés autrement sur d'autres claviers (a q w z y m, chiffres, ponctuation). Si le clavier d'ici n'est pas celui que le menu suppose, les mêmes touches donneront peut-être un autre mot de passe. Dans le doute, répondez non et prenez les autres lettres seulement ; il pourra être changé dans le système.";
    /// They differ.
    NotTheSame: "That was not the same twice.", "Ce n'était pas deux fois le même.";
    /// What is written: name, volume, disk.
    WillSet: "{} gets a new password in /etc/shadow of the system on {}; nothing else is changed.\n   {}",
        "{} reçoit un nouveau mot de passe dans /etc/shadow du système de {} ; rien d'autre n'est modifié.\n   {}";
    /// The boot partition cannot be read: system, why.
    MayNotStart: "Whether the computer starts the system on {} is not known: its start partition cannot be read ({}).",
        "Impossible de savoir si l'ordinateur démarre le système de {} : sa partition de démarrage est illisible ({}).";
    /// It was written: name.
    PasswordSet: "{} can log in with the new password. A keyring of saved passwords still needs the old one.",
        "{} peut se connecter avec le nouveau mot de passe. Un trousseau de mots de passe demande encore l'ancien.";
    /// Encrypted homes: name.
    HomeEcryptfs: "The files of {} are encrypted (eCryptfs): the new password opens the account, NOT the files. The old password or the recovery phrase is needed for those.",
        "Les fichiers de {} sont chiffrés (eCryptfs) : le nouveau mot de passe ouvre le compte, PAS les fichiers. Il y faut l'ancien mot de passe ou la phrase de secours.";
    /// Encrypted homes: name.
    HomeHomed: "{} has a home of systemd-homed, whose password is inside it: it cannot be changed from here.",
        "{} a un dossier systemd-homed, qui contient son propre mot de passe : il ne peut pas être changé d'ici.";
    /// Encrypted homes: name.
    HomeFscrypt: "Files on this filesystem are encrypted (fscrypt), maybe those of {}: with the new password they may stay closed.",
        "Des fichiers de ce système sont chiffrés (fscrypt), peut-être ceux de {} : le nouveau mot de passe ne les ouvrira peut-être pas.";
    /// The administrator's account.
    RootAccount: "the administrator's account", "le compte de l'administrateur";
    /// What a repair writes.
    WillRepair: "This would be done:", "Voici ce qui serait fait :";
    /// To which disk.
    RepairOn: "It is written to this disk:", "C'est écrit sur ce disque :";
    /// A repair is done.
    Repaired: "Done. Take the medium out and restart.", "Fait. Retirez le disque ou la clé et redémarrez.";
    /// Something failed.
    WentWrong: "That did not work.", "Cela n'a pas fonctionné.";
}

impl Text {
    /// The text with values in the places of `{}`.
    pub fn with(self, language: Language, values: &[&str]) -> String {
        let mut pieces = self.get(language).split("{}");
        let mut text = pieces.next().unwrap_or_default().to_owned();
        let mut values = values.iter();
        for piece in pieces {
            text += values.next().copied().unwrap_or("?");
            text += piece;
        }
        text
    }
}

/// What happened and what to do, in French, by code.
const FRENCH: &[(&str, &str, &str)] = &[
    (
        "same-disk",
        "ce volume est sur le disque d'où viennent les fichiers",
        "branchez un autre disque et choisissez-le",
    ),
    (
        "is-the-medium",
        "c'est le disque ou la clé de démarrage de cet ordinateur",
        "branchez un autre disque et choisissez-le",
    ),
    (
        "target-read-only",
        "ce disque refuse l'écriture",
        "cherchez un verrou d'écriture, ou choisissez un autre disque",
    ),
    ("target-unsuitable", "on ne peut pas y copier de fichiers", "branchez un autre disque et choisissez-le"),
    (
        "no-room-for-files",
        "il n'y a pas assez de place",
        "choisissez moins de personnes ou un plus grand disque",
    ),
    (
        "volume-encrypted",
        "il est chiffré : sans son mot de passe, personne ne peut le lire",
        "démarrez le système de cet ordinateur et tapez-y le mot de passe",
    ),
    ("volume-unknown", "rien de connu ne s'y trouve", "choisissez-en un autre"),
    (
        "volume-damaged",
        "il ne peut pas être ouvert",
        "s'il vient de Windows, démarrez Windows puis arrêtez-le complètement ; sinon, voyez la santé des disques",
    ),
    ("no-such-volume", "ce volume n'existe pas", "choisissez-en un de la liste"),
    ("no-accounts", "aucune personne n'y a été trouvée", "choisissez un autre système"),
    ("password-odd", "ce mot de passe ne convient pas", "choisissez-en un autre"),
    (
        "account-not-there",
        "le mot de passe de ce compte n'est pas dans ce système",
        "choisissez un autre compte ou un autre système",
    ),
    (
        "no-memory-test",
        "la mémoire ne peut pas être testée d'ici",
        "démarrez du disque ou de la clé et choisissez *Tester la memoire*",
    ),
    (
        "system-unfinished",
        "son installation a commencé et n'est pas finie",
        "démarrez de son disque : l'installation continue",
    ),
    (
        "system-not-current",
        "ce n'est pas le système qui démarre sur cet ordinateur : il y en a deux",
        "choisissez l'autre système",
    ),
    (
        "boot-unusual",
        "le démarrage de ce système ne se répare pas d'ici",
        "demandez à quelqu'un qui connaît ce système",
    ),
    (
        "windows-starts-here",
        "le démarrage de ce disque est celui de Windows, et n'est jamais écrasé",
        "appelez l'administrateur ; les fichiers peuvent être copiés",
    ),
    (
        "no-people-found",
        "aucun fichier de cette personne n'a été trouvé",
        "choisissez parmi les personnes listées",
    ),
];

/// An issue as a person reads it.
pub fn reason(issue: &Issue, language: Language) -> String {
    let known = match language {
        Language::En => None,
        Language::Fr => FRENCH.iter().find(|(code, ..)| *code == issue.code),
    };
    let about = if issue.path.is_empty() { String::new() } else { format!("{} : ", issue.path) };
    match known {
        None => {
            format!("{}\n> {}\n[{}]", about.replace(" : ", ": ") + &issue.message, issue.next, issue.code)
        }
        Some((_, what, next)) => format!("{about}{what}\n({})\n> {next}\n[{}]", issue.message, issue.code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::words::ascii;

    #[test]
    fn every_text_is_there_in_both_languages_with_the_same_values() {
        for text in Text::ALL {
            let [en, fr] = Language::ALL.map(|language| text.get(language));
            assert!(!en.is_empty() && !fr.is_empty() && en != fr && en.is_ascii(), "{text:?}");
            assert_eq!(en.matches("{}").count(), fr.matches("{}").count(), "{text:?}");
        }
        assert_eq!(Text::Copying.with(Language::En, &["ana", "5"]), "ana: 5 %");
    }

    #[test]
    fn french_needs_no_font() {
        const CP437: &str = "çéâàêëèïîÉôûùÇ";
        let texts = Text::ALL.iter().map(|t| t.get(Language::Fr));
        for text in texts.chain(FRENCH.iter().flat_map(|(_, what, next)| [*what, *next])) {
            assert!(text.chars().all(|c| c.is_ascii() || CP437.contains(c)), "{text}");
            assert!(ascii(text).is_ascii() && !ascii(text).contains('?') | text.contains('?'), "{text}");
        }
    }

    /// Every code a rescue can refuse with, read from its sources.
    #[test]
    fn every_refusal_has_its_french_words() {
        let sources = [
            include_str!("mod.rs"),
            include_str!("boot.rs"),
            include_str!("cmd.rs"),
            include_str!("copy.rs"),
            include_str!("current.rs"),
            include_str!("memory.rs"),
            include_str!("open.rs"),
            include_str!("password.rs"),
        ];
        let mut found = 0;
        for source in sources {
            let code = source.split("#[cfg(test)]").next().unwrap();
            for start in ["Issue::new(", "refuse("] {
                for rest in code.split(start).skip(1) {
                    let name = rest.trim_start().strip_prefix('"').and_then(|r| r.split('"').next());
                    let Some(name) = name else { continue };
                    found += 1;
                    assert!(FRENCH.iter().any(|(code, ..)| *code == name), "`{name}` has no French words");
                }
            }
        }
        assert!(found >= 12, "only {found} refusals were found in the sources");
    }
}
