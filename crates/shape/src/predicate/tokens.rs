//! The gate before the parser: only tokens of the language pass, and of SQL's keywords only the
//! language's keep their meaning. So the general SQL parser never sees most of SQL.

use sqlparser::{
    dialect::PostgreSqlDialect,
    keywords::Keyword,
    parser::ParserError,
    tokenizer::{Location, Token, TokenWithSpan, Tokenizer},
};

use crate::{Place, Problem, ShapeError, limits};

/// The tokens of `text`, if all of them are part of the language.
pub(super) fn admitted(text: &str) -> Result<Vec<TokenWithSpan>, ShapeError> {
    if text.len() > limits::FILTER_BYTES_MAX {
        let max = limits::FILTER_BYTES_MAX;
        return Err(Problem::TooLarge {
            what: "too many bytes",
            max,
        }
        .into());
    }
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, text)
        .tokenize_with_location()
        .map_err(|error| Problem::Syntax(error.message).at(place(error.location)))?;
    if tokens.len() > limits::FILTER_TOKENS_MAX {
        let max = limits::FILTER_TOKENS_MAX;
        return Err(Problem::TooLarge {
            what: "too many tokens",
            max,
        }
        .into());
    }
    let mut admitted = Vec::with_capacity(tokens.len());
    for mut token in tokens {
        let names_parameter = matches!(
            admitted.last(),
            Some(TokenWithSpan {
                token: Token::Colon,
                ..
            })
        );
        let place = place(token.span.start);
        if let Token::CustomBinaryOperator(operator) = &token.token
            && let Some((comparison, sign)) = signed_comparison(operator)
        {
            admitted.push(TokenWithSpan {
                token: comparison,
                span: token.span,
            });
            token.token = sign;
        }
        admit(&mut token.token, names_parameter).map_err(|problem| problem.at(place))?;
        admitted.push(token);
    }
    Ok(admitted)
}

/// `>-` and its like: no operator of Postgres ends in a sign if it is made of `<`, `>` and `=`
/// only, so the sign belongs to the number after it.
fn signed_comparison(operator: &str) -> Option<(Token, Token)> {
    let (comparison, sign) = match operator.strip_suffix('-') {
        Some(comparison) => (comparison, Token::Minus),
        None => (operator.strip_suffix('+')?, Token::Plus),
    };
    let comparison = match comparison {
        "=" => Token::Eq,
        "<>" => Token::Neq,
        "<" => Token::Lt,
        "<=" => Token::LtEq,
        ">" => Token::Gt,
        ">=" => Token::GtEq,
        _ => return None,
    };
    Some((comparison, sign))
}

fn admit(token: &mut Token, names_parameter: bool) -> Result<(), Problem> {
    match token {
        Token::Word(_) if names_parameter => Ok(()),
        Token::Word(word) => {
            if let Some(construct) = refused_construct(word.keyword) {
                return Err(Problem::Refused(construct.to_owned()));
            }
            if !is_of_the_language(word.keyword) {
                word.keyword = Keyword::NoKeyword;
            }
            Ok(())
        }
        Token::EOF
        | Token::Whitespace(_)
        | Token::Number(_, false)
        | Token::SingleQuotedString(_)
        | Token::Comma
        | Token::LParen
        | Token::RParen
        | Token::Period
        | Token::Colon
        | Token::DoubleColon
        | Token::Plus
        | Token::Minus
        | Token::Eq
        | Token::Neq
        | Token::Lt
        | Token::LtEq
        | Token::Gt
        | Token::GtEq => Ok(()),
        Token::Placeholder(name) => Err(Problem::Refused(format!(
            "the positional parameter {name} (name it instead, as in :owner)"
        ))),
        Token::EscapedStringLiteral(_) | Token::UnicodeStringLiteral(_) => Err(Problem::Refused(
            "a string with escapes (write it plainly, as '..')".to_owned(),
        )),
        other => Err(Problem::Refused(format!("`{other}`"))),
    }
}

/// The keywords that the parser is to know. The last lines are the names of types, for casts.
const fn is_of_the_language(keyword: Keyword) -> bool {
    use Keyword as K;
    matches!(
        keyword,
        K::AND
            | K::OR
            | K::NOT
            | K::IN
            | K::BETWEEN
            | K::LIKE
            | K::ESCAPE
            | K::IS
            | K::NULL
            | K::TRUE
            | K::FALSE
            | K::UNKNOWN
            | K::DISTINCT
            | K::FROM
            | K::CAST
            | K::AS
            | K::DATE
            | K::TIME
            | K::TIMESTAMP
            | K::TIMESTAMPTZ
            | K::WITH
            | K::WITHOUT
            | K::ZONE
            | K::DOUBLE
            | K::PRECISION
            | K::CHARACTER
            | K::VARYING
            | K::BOOLEAN
            | K::NUMERIC
            | K::UUID
            | K::TEXT
            | K::BYTEA
            | K::INTEGER
            | K::BIGINT
    )
}

/// What a keyword begins that people might expect to work, named in their words.
const fn refused_construct(keyword: Keyword) -> Option<&'static str> {
    use Keyword as K;
    Some(match keyword {
        K::SELECT | K::EXISTS => "a subquery",
        K::CASE => "CASE",
        K::ILIKE => "ILIKE",
        K::SIMILAR => "SIMILAR TO",
        K::COLLATE => "COLLATE",
        K::ANY | K::ALL | K::SOME => "ANY, ALL or SOME (write IN)",
        K::ARRAY => "an array",
        K::SYMMETRIC => "BETWEEN SYMMETRIC",
        K::CURRENT_DATE
        | K::CURRENT_TIME
        | K::CURRENT_TIMESTAMP
        | K::LOCALTIME
        | K::LOCALTIMESTAMP => "the current time (a shape's rows change with the data only)",
        K::CURRENT_USER | K::SESSION_USER | K::CURRENT_ROLE => {
            "the current user (pass a :parameter)"
        }
        _ => return None,
    })
}

/// What the parser's error says, and where.
pub(super) fn syntax(error: ParserError, next: &TokenWithSpan) -> ShapeError {
    let message = match error {
        ParserError::RecursionLimitExceeded => return Problem::too_deep().into(),
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => message,
    };
    let (message, place_of_error) = match message.split_once(" at Line: ") {
        Some((message, numbers)) => (message, read_place(numbers)),
        None => (message.as_str(), place(next.span.start)),
    };
    Problem::Syntax(message.to_owned()).at(place_of_error)
}

fn read_place(numbers: &str) -> Option<Place> {
    let (line, column) = numbers.split_once(", Column: ")?;
    Some(Place {
        line: line.parse().ok()?,
        column: column.parse().ok()?,
    })
}

/// A location, if it is one: the parser counts from 1, and says 0 where it does not know.
pub(super) fn place(location: Location) -> Option<Place> {
    let Location { line, column } = location;
    (line > 0).then_some(Place { line, column })
}
