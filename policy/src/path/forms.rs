//! Forms of paths that are ordinary to some backends and syntax to others.

/// A form that some backends take for syntax: a path that has it needs a route that takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `;` or `%3B`: some backends cut what follows off (matrix parameters).
    Semicolon,
    /// `%23`.
    Hash,
    /// `%3F`.
    QuestionMark,
    /// `%2E`, outside dot segments.
    EscapedDot,
    /// Text that is not in the normal form NFC, or has compatibility characters.
    OtherUnicode,
}

impl Form {
    /// All of them.
    pub const ALL: [Form; 5] = [Form::Semicolon, Form::Hash, Form::QuestionMark, Form::EscapedDot, Form::OtherUnicode];
}

/// A set of forms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Forms(u8);

impl Forms {
    /// None.
    pub const NONE: Forms = Forms(0);

    /// With one more.
    pub const fn with(self, form: Form) -> Self {
        Forms(self.0 | 1 << form as u8)
    }

    /// All of both.
    pub const fn and(self, others: Forms) -> Self {
        Forms(self.0 | others.0)
    }

    /// Whether all of these are among those.
    pub const fn are_among(self, others: Forms) -> bool {
        self.0 & !others.0 == 0
    }

    /// Those that are not among the others.
    pub fn beyond(self, others: Forms) -> impl Iterator<Item = Form> {
        Form::ALL.into_iter().filter(move |form| !Forms::NONE.with(*form).are_among(Forms(!self.0 | others.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_that_a_route_does_not_take_are_named() {
        let has = Forms::NONE.with(Form::Semicolon).with(Form::Hash);
        assert_eq!(has.beyond(Forms::NONE.with(Form::Hash)).collect::<Vec<_>>(), [Form::Semicolon]);
        assert!(has.are_among(has.with(Form::EscapedDot)) && !has.are_among(Forms::NONE));
    }
}
