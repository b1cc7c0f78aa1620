/// Every order in which several actors, each with its own sequence of steps, can take turns.
///
/// - Returns: how many orders there are.
func forEveryInterleaving<Step>(of scripts: [[Step]], _ body: ([Step]) throws -> Void) rethrows -> Int {
    var next = Array(repeating: 0, count: scripts.count)
    var order: [Step] = []
    var count = 0
    func descend() throws {
        var isLeaf = true
        for actor in scripts.indices where next[actor] < scripts[actor].count {
            isLeaf = false
            order.append(scripts[actor][next[actor]])
            next[actor] += 1
            try descend()
            next[actor] -= 1
            order.removeLast()
        }
        if isLeaf {
            count += 1
            try body(order)
        }
    }
    // A nested function that throws what `body` throws.
    try descend()
    return count
}
