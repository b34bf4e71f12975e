// Judges histories of registers with porcupine: a check on jepsen's own search.
//
// It reads JSON lines as `jepsen export --porcupine` writes them and prints a line for each history: its number and
// Ok, Illegal or Unknown.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"time"

	"github.com/anishathalye/porcupine"
)

// An access of one register; 0 is no value.
type line struct {
	History uint64 `json:"history"`
	Key     string `json:"key"`
	Call    int64  `json:"call"`
	Return  int64  `json:"return"`
	Kind    string `json:"kind"`
	A       uint64 `json:"a"`
	B       uint64 `json:"b"`
}

// The longest that one history may take.
const limit = 30 * time.Second

var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, operation := range history {
			key := operation.Input.(line).Key
			byKey[key] = append(byKey[key], operation)
		}
		parts := make([][]porcupine.Operation, 0, len(byKey))
		for _, part := range byKey {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() interface{} { return uint64(0) },
	Step: func(state, input, _ interface{}) (bool, interface{}) {
		value, access := state.(uint64), input.(line)
		// What never ended may not have happened: for porcupine everything happens, so at the end of time it may
		// happen without an effect that anybody sees. A swap that does not fit is such an end.
		unknown := access.Return == 1<<63-1
		switch access.Kind {
		case "read":
			return access.A == value, value
		case "write":
			return true, access.A
		case "swap":
			if access.A == value && value != 0 {
				return true, access.B
			}
			return unknown, value
		default:
			return access.A != value && access.B == value, value
		}
	},
}

func main() {
	histories := map[uint64][]porcupine.Operation{}
	scanner := bufio.NewScanner(os.Stdin)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		var access line
		if err := json.Unmarshal(scanner.Bytes(), &access); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		operation := porcupine.Operation{Input: access, Call: access.Call, Return: access.Return}
		histories[access.History] = append(histories[access.History], operation)
	}
	if err := scanner.Err(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	numbers := make([]uint64, 0, len(histories))
	for number := range histories {
		numbers = append(numbers, number)
	}
	sort.Slice(numbers, func(i, j int) bool { return numbers[i] < numbers[j] })
	for _, number := range numbers {
		fmt.Println(number, porcupine.CheckOperationsTimeout(register, histories[number], limit))
	}
}
