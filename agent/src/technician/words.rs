//! What a technician reads. Short sentences, no word that only a programmer knows; French with the letters of code page 437 alone,
//! as in [`crate::report::words`].

use akene_protocol::Language;

use crate::report::words::texts;

texts! {
    /// Before the number of the question.
    Step: "question", "question";
    /// Keys where something is chosen from a list.
    KeysList: "Up/Down choose   Enter go on   Left back   F1 help   Esc leave",
        "Haut/Bas choisir  Entrée continuer  Gauche retour  F1 aide  Echap quitter";
    /// Keys where something is typed.
    KeysInput: "Type, then Enter   Left back   F1 help   Esc leave",
        "Tapez, puis Entrée   Gauche retour   F1 aide   Echap quitter";
    /// Keys where something is read.
    KeysRead: "Enter go on   Up/Down read   Left back   F1 help   Esc leave",
        "Entrée continuer  Haut/Bas lire  Gauche retour  F1 aide  Echap quitter";
    /// Keys of the help.
    KeysHelp: "Any key: back", "Une touche : retour";
    /// Text goes on below the last line shown.
    Below: "-- more below: Page Down --", "-- la suite : touche Page suivante --";
    /// Text goes on above the first line shown.
    Above: "-- more above: Page Up --", "-- plus haut : touche Page précédente --";
    /// The terminal cannot show anything useful.
    Tiny: "window too small", "fenêtre trop petite";

    /// Head of the first question, which both languages must be able to read.
    LanguageTitle: "Language - Langue", "Langue - Language";
    /// Below it.
    LanguageText: "Choose your language, then press Enter. - Choisissez votre langue, puis tapez Entrée.",
        "Choisissez votre langue, puis tapez Entrée. - Choose your language, then press Enter.";
    /// Help for it.
    LanguageHelp: "The language is only that of these questions. It changes nothing on the computer. The keyboard follows when you change it: a French one (AZERTY) with French, an English one (QWERTY) with English.",
        "La langue est celle de ces questions seulement. Elle ne change rien sur l'ordinateur. Le clavier suit quand vous en changez : français (AZERTY) en français, anglais (QWERTY) en anglais.";
    /// A language in itself.
    English: "English", "English (anglais)";
    /// A language in itself.
    French: "Français (French)", "Français";

    /// Head of the question for whom a computer is.
    AssociationTitle: "Where does this computer go?", "Où va cet ordinateur ?";
    /// Below it, with a list.
    AssociationText: "Choose the association that will use this computer.",
        "Choisissez l'association qui utilisera cet ordinateur.";
    /// Below it, with a field.
    AssociationTyped: "Type the name of the association that will use this computer. If you do not know it, leave the field empty.",
        "Tapez le nom de l'association qui utilisera cet ordinateur. Si vous ne le savez pas, laissez le champ vide.";
    /// Before the field.
    AssociationField: "Association:", "Association :";
    /// Help for it.
    AssociationHelp: "The administrator sees this name beside the computer. It can be changed later, nothing depends on it.",
        "L'administrateur voit ce nom à côté de l'ordinateur. On peut le changer plus tard, rien n'en dépend.";

    /// Head of the question what is installed.
    ProfileTitle: "What shall be installed?", "Que faut-il installer ?";
    /// Below it.
    ProfileText: "Choose what this computer is to become. All of it is on this stick or disc, no network is needed.",
        "Choisissez ce que cet ordinateur doit devenir. Tout est sur cette clé ou ce disque, le réseau est inutile.";
    /// After the size of a profile.
    ProfileSize: "to copy at most", "à copier au plus";
    /// Help for it.
    ProfileHelp: "Your administrator has prepared these choices. If you are not sure, take the first one. Nothing is written yet: you will see the plan first.",
        "Votre administrateur a préparé ces choix. Si vous hésitez, prenez le premier. Rien n'est encore écrit : vous verrez d'abord le plan.";

    /// Head of the question for the number.
    NumberTitle: "The number of this computer", "Le numéro de cet ordinateur";
    /// Below it.
    NumberText: "Type the number on the computer's label, or scan it. It looks like this: 1042-9",
        "Tapez le numéro de l'étiquette de l'ordinateur, ou scannez-le. Il ressemble à ceci : 1042-9";
    /// Where the disks say a number, before it.
    NumberKnown: "If you leave the field empty, this computer keeps the number it has:",
        "Si vous laissez le champ vide, cet ordinateur garde son numéro :";
    /// Where they say none.
    NumberNone: "No label? Leave the field empty, and the computer gets a new number.",
        "Pas d'étiquette ? Laissez le champ vide, et l'ordinateur reçoit un nouveau numéro.";
    /// Before what kind of computer it is.
    Machine: "This computer:", "Cet ordinateur :";
    /// Before the field.
    NumberField: "Number:", "Numéro :";
    /// Help for it.
    NumberHelp: "The number is the name of the computer for its whole life. The last digit, after the hyphen, shows whether all the others were read right. You may leave the hyphen out.",
        "Le numéro est le nom de l'ordinateur pour toute sa vie. Le dernier chiffre, après le tiret, montre si tous les autres sont justes. Le tiret n'est pas obligatoire.";
    /// A mistake in a number.
    TypoLetters: "This is not a number. Only digits are allowed, and one hyphen before the last digit. Delete it and type it once more.",
        "Ce n'est pas un numéro. Il faut seulement des chiffres, et un tiret avant le dernier. Effacez et tapez-le encore une fois.";
    /// A mistake in a number.
    TypoShort: "This number is too short. Look at the label again: there is at least one digit more.",
        "Ce numéro est trop court. Regardez encore l'étiquette : il y a au moins un chiffre de plus.";
    /// A mistake in a number.
    TypoLong: "This number is too long. It may be another label. Look for one like this: 1042-9",
        "Ce numéro est trop long. C'est peut-être une autre étiquette. Cherchez-en une comme ceci : 1042-9";
    /// A mistake in a number.
    TypoCheck: "There is a mistake in this number: the last digit does not fit the others. Read the label again, digit by digit.",
        "Il y a une faute dans ce numéro : le dernier chiffre ne va pas avec les autres. Relisez l'étiquette, chiffre par chiffre.";

    /// Head of the question whether there is really no label.
    UnlabelledTitle: "No number?", "Pas de numéro ?";
    /// Below it.
    UnlabelledText: "This computer gets a new number. The screen will show it in large digits: write it on the case, it stays the computer's name.",
        "Cet ordinateur reçoit un nouveau numéro. L'écran le montrera en grands chiffres : écrivez-le sur le boîtier, il reste le nom de l'ordinateur.";
    /// An answer.
    UnlabelledYes: "There is no label: give it a new number", "Il n'y a pas d'étiquette : donner un nouveau numéro";
    /// An answer.
    NumberAgain: "Go back and type the number", "Revenir et taper le numéro";

    /// Head of the question which of two numbers is right.
    TwoTitle: "Two different numbers", "Deux numéros différents";
    /// Below it.
    TwoText: "The disk of this computer says another number than you. Perhaps the disk was in another computer, or the label was. Which number is right?",
        "Le disque de cet ordinateur dit un autre numéro que vous. Le disque vient peut-être d'un autre ordinateur, ou l'étiquette. Quel numéro est le bon ?";
    /// After a number.
    TwoDisk: "(said by the disk)", "(dit par le disque)";
    /// After a number.
    TwoLabel: "(typed by you)", "(tapé par vous)";

    /// A number was scanned where something else is asked.
    Stray: "A number came in, but it is not asked for here. It comes later. Choose with the arrow keys.",
        "Un numéro est arrivé, mais ce n'est pas la question. Il viendra plus tard. Choisissez avec les flèches.";

    /// A number was scanned where a name is asked.
    StrayName: "That is the number of a computer. It comes later. Here, type the name of the association.",
        "C'est le numéro d'un ordinateur. Il viendra plus tard. Ici, tapez le nom de l'association.";

    /// Head of the plan.
    PlanTitle: "What will be done", "Ce qui va être fait";
    /// Before the profile.
    PlanProfile: "Will be installed:", "Sera installé :";
    /// Nothing is written before the person says so.
    PlanNothingYet: "Nothing has been written yet.", "Rien n'est encore écrit.";
    /// Help for it.
    PlanHelp: "Each disk is drawn as a bar, as it is now and as it will be. Read what will be lost. If somebody still needs any of it, press Esc and save it first.",
        "Chaque disque est une barre : avant, et après. Lisez ce qui sera perdu. Si quelqu'un en a encore besoin, tapez Echap et sauvez-le d'abord.";
    /// Before what is lost.
    Lost: "LOST FOR GOOD:", "PERDU POUR TOUJOURS :";
    /// Where nothing is.
    NothingLost: "Nothing is lost.", "Rien n'est perdu.";
    /// Before what stays.
    Stays: "Stays as it is:", "Reste comme avant :";
    /// A disk that the plan leaves alone.
    Untouched: "not touched", "pas touché";
    /// A disk that the plan leaves alone because it is dying, and what to do.
    Failing: "IS FAILING and is not used. Save what is on it, then replace it.",
        "TOMBE EN PANNE et n'est pas utilisé. Sauvez ce qu'il contient, puis remplacez-le.";
    /// A disk that is used, and what to do.
    Worn: "is worn. It works today. Replace it soon.", "est usé. Il marche encore. Remplacez-le bientôt.";
    /// A disk that is used although it is dying.
    FailingUsed: "IS FAILING, and the plan uses it. Better leave, and replace it first.",
        "TOMBE EN PANNE, et le plan l'utilise. Mieux vaut quitter, et le remplacer d'abord.";
    /// A disk, before its name.
    Disk: "Disk", "Disque";
    /// A volume over several disks, after its mount point.
    Several: "over several disks:", "sur plusieurs disques :";

    /// Head of the last question.
    ConfirmTitle: "Last question", "Dernière question";
    /// Before what is lost.
    ConfirmLost: "If you go on, this is LOST FOR GOOD. Nobody can bring it back:",
        "Si vous continuez, ceci est PERDU POUR TOUJOURS. Personne ne pourra le retrouver :";
    /// Where nothing is.
    ConfirmNothing: "Nothing is lost. The installation takes from ten minutes to an hour. A power cut does no harm.",
        "Rien n'est perdu. L'installation prend de dix minutes à une heure. Une coupure de courant ne fait pas de mal.";
    /// Before the word.
    ConfirmType: "To begin, type this word and press Enter:", "Pour commencer, tapez ce mot, puis Entrée :";
    /// Before the field.
    ConfirmField: "Word:", "Mot :";
    /// The word where something is lost. Its letters lie at the same place on English, French and German keyboards.
    WordDelete: "DELETE", "DETRUIRE";
    /// The word where nothing is.
    WordBegin: "BEGIN", "DEBUT";
    /// Something else was typed.
    ConfirmWrong: "That is not the word. Nothing was done. Type the word, or go back with the Left key.",
        "Ce n'est pas le mot. Rien n'a été fait. Tapez le mot, ou revenez avec la touche Gauche.";
    /// Help for it.
    ConfirmHelp: "This is the only question that changes the disks. The word is asked for so that no key pressed by mistake can begin it.",
        "C'est la seule question qui change les disques. Il faut taper le mot, pour qu'une touche tapée par erreur ne commence rien.";

    /// Head of the question whether to leave.
    LeaveTitle: "Leave?", "Quitter ?";
    /// Below it.
    LeaveText: "Nothing was changed on this computer. If you leave, it restarts with what was there before. Take the stick or disc out when the screen goes dark.",
        "Rien n'a été modifié sur cet ordinateur. Si vous quittez, il redémarre avec ce qu'il avait avant. Retirez la clé ou le disque quand l'écran devient noir.";
    /// Below it, after a failure.
    LeaveAfter: "This computer restarts. Take the stick or disc out when the screen goes dark.",
        "Cet ordinateur redémarre. Retirez la clé ou le disque quand l'écran devient noir.";
    /// An answer.
    Stay: "Stay here", "Rester ici";
    /// An answer.
    Leave: "Leave and restart this computer", "Quitter et redémarrer cet ordinateur";

    /// Head of the reasons why it does not go on.
    RefusedTitle: "It cannot go on", "Impossible de continuer";
    /// Before an issue's next step.
    ToDo: "What to do:", "Que faire :";
    /// Before the English message, where what happened is a translation.
    Detail: "Detail:", "Détail (en anglais) :";
    /// Before codes.
    Phone: "On the phone, say:", "Au téléphone, dites :";
    /// Help for it.
    RefusedHelp: "Read what to do. If you cannot do it, call your administrator and read out the words in the last line.",
        "Lisez ce qu'il faut faire. Si vous ne pouvez pas, appelez votre administrateur et lisez-lui les mots de la dernière ligne.";
    /// An answer.
    Anew: "Go back to the questions", "Revenir aux questions";

    /// What lies on a disk.
    Files: "people's files", "fichiers personnels";
    /// What lies on a disk, after the name of a system.
    WithFiles: "with people's files", "avec des fichiers personnels";
    /// After a system that goes around files that stay.
    FilesStay: "but people's files in it stay", "mais les fichiers personnels y restent";
    /// What lies on a disk.
    LinuxSystem: "a Linux system", "un système Linux";
    /// What lies on a disk.
    StartPartition: "start partition of an installed computer", "partition de démarrage d'un ordinateur installé";
    /// What lies on a disk.
    ThisMedium: "a stick of this installer", "une clé de cet installateur";
    /// What lies on a disk.
    Empty: "an empty partition", "une partition vide";
    /// What lies on a disk.
    PartOfGroup: "part of a group of disks (LVM)", "une partie d'un groupe de disques (LVM)";
    /// What lies on a disk.
    PartOfRaid: "part of a group of disks (RAID, ZFS)", "une partie d'un groupe de disques (RAID, ZFS)";
    /// What lies on a disk.
    Encrypted: "an encrypted partition, nobody can see what is in it",
        "une partition chiffrée, personne ne voit ce qu'elle contient";
    /// What lies on a disk.
    Data: "a partition with data", "une partition avec des données";
    /// What lies on a disk.
    Unknown: "something unknown", "un contenu inconnu";
    /// What lies on a disk.
    DamagedTable: "a damaged list of partitions", "une liste de partitions abîmée";
    /// Before the number of partitions that hold no files.
    Technical: "helper partitions without files (start, swap):", "partitions techniques sans fichiers (démarrage, swap) :";
    /// After the amount of data.
    Used: "used", "occupés";

    /// In the picture.
    Before: "before", "avant";
    /// In the picture.
    After: "after", "après";
    /// In the picture.
    Now: "now", "actuel";
    /// In the picture.
    Free: "free", "libre";
    /// In the picture.
    FilesShort: "files", "fichiers";
    /// In the picture.
    LinuxFiles: "Linux+files", "Linux+fichiers";
    /// In the picture.
    Reserved: "reserved", "réservé";
    /// In the picture.
    EncryptedShort: "encrypted", "chiffré";
    /// In the picture.
    Installer: "installer", "installateur";
    /// In the picture.
    EmptyShort: "empty", "vide";
    /// In the picture: room for the next system.
    SpareShort: "spare", "réserve";
    /// In the picture: the root of the system so far, which stays for a while.
    OldShort: "old /", "ancien /";
}

/// A word of the planner's picture in a language. What it does not know is a name.
pub fn of_picture(word: &str, language: Language) -> String {
    let text = match word {
        "before" => Text::Before,
        "after" => Text::After,
        "now" => Text::Now,
        "free" => Text::Free,
        "files" => Text::FilesShort,
        "Linux+files" => Text::LinuxFiles,
        "reserved" => Text::Reserved,
        "encrypted" => Text::EncryptedShort,
        "installer" => Text::Installer,
        "empty" => Text::EmptyShort,
        "spare" => Text::SpareShort,
        "old /" => Text::OldShort,
        // The group is drawn once more by itself.
        name => return name.strip_suffix(" (LVM)").unwrap_or(name).to_owned(),
    };
    text.get(language).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::words::ascii;

    const CP437: &str = "çéâàêëèïîÉôûùÇ";

    /// Texts that are the same in both languages.
    const SAME: [Text; 1] = [Text::Step];

    #[test]
    fn every_text_is_there_in_both_languages() {
        for text in Text::ALL {
            let [en, fr] = Language::ALL.map(|language| text.get(language));
            assert!(!en.is_empty() && !fr.is_empty(), "{text:?}");
            assert!((en != fr) != SAME.contains(text), "{text:?}");
            // Who has not yet chosen a language reads both.
            assert!(en.is_ascii() || matches!(text, Text::French | Text::LanguageText), "{text:?}");
        }
    }

    #[test]
    fn french_needs_no_font_and_a_serial_line_gets_plain_letters() {
        for text in Text::ALL.iter().map(|text| text.get(Language::Fr)) {
            assert!(text.chars().all(|c| c.is_ascii() || CP437.contains(c)), "{text}");
            assert!(!ascii(text).replace(" ?", "").contains('?'), "{text}");
        }
    }

    #[test]
    fn sentences_are_short() {
        for text in Text::ALL {
            for sentence in Language::ALL.iter().flat_map(|l| text.get(*l).split(['.', ':', '?'])) {
                let words = sentence.split_whitespace().count();
                assert!(words <= 20, "{words} words: {sentence}");
            }
        }
    }

    #[test]
    fn keys_fit_a_line_of_eighty_columns() {
        for text in [Text::KeysList, Text::KeysInput, Text::KeysRead, Text::KeysHelp] {
            for language in Language::ALL {
                assert!(text.get(language).chars().count() <= 78, "{}", text.get(language));
            }
        }
    }

    /// Keys that lie elsewhere on one of QWERTY, AZERTY and QWERTZ: whoever has another keyboard than their language types them all
    /// the same.
    #[test]
    fn the_words_to_type_are_under_the_same_keys_on_every_keyboard() {
        for text in [Text::WordDelete, Text::WordBegin] {
            for language in Language::ALL {
                let word = text.get(language);
                assert!(word.chars().all(|c| c.is_ascii_uppercase() && !"AQZWMY".contains(c)), "{word}");
                assert!(word.len() >= 5, "{word}");
            }
        }
    }
}
