#pragma once
#include "../../gloo_types.h"
