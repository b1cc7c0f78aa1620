extension String {
    /// The text with every control character (line ends and terminal escapes among them) replaced: what others say may be damaged
    /// or hostile, and goes into lines that people and terminals read.
    package var withoutControls: String {
        guard unicodeScalars.contains(where: \.isControl) else { return self }
        var cleaned = String.UnicodeScalarView()
        for scalar in unicodeScalars { cleaned.append(scalar.isControl ? "\u{FFFD}" : scalar) }
        return String(cleaned)
    }
}

extension Unicode.Scalar {
    fileprivate var isControl: Bool { properties.generalCategory == .control }
}
