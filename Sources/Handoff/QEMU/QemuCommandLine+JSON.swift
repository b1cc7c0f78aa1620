import Foundation

extension QemuCommandLine {
    /// The members of QEMU's JSON form of -object, as its key=value form would write them.
    static func parseJSON(_ object: String) -> [String: String] {
        guard case .object(let members)? = try? JSONDecoder().decode(JSONValue.self, from: Data(object.utf8)) else { return [:] }
        return members.compactMapValues { value in
            switch value {
            case .string(let text): text
            case .boolean(let state): state ? "on" : "off"
            case .integer(let number): "\(number)"
            default: nil
            }
        }
    }
}
