// An evaluation of a checkpoint as text.
#pragma once
#include <string>

#include "train/checkpoint_evaluation.h"

namespace scfa {

// The tables that ./evaluate prints.
std::string describe_evaluation(const CheckpointEvaluation& evaluation);

// The file of --csv: all tables one below the other under one header, each row with the name of its table first.
// Columns that a table does not have are empty. docs/tools.md lists both.
std::string evaluation_csv(const CheckpointEvaluation& evaluation);

}  // namespace scfa
